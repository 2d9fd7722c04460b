"""Where rows come from: one file a kind of source, each giving `api.migrate.records.Source`."""

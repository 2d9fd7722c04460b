from bench.embedder_soak import GROWTH_MEGABYTES, soak


def test_nothing_fails_or_is_left_while_64_clients_ask_and_models_change() -> None:
    report = soak(seconds=8, clients=64)

    assert report.wrong == []
    assert set(report.statuses) <= {200, 404, 429}
    assert (report.statuses[200] > 100, report.changes >= 7) == (True, True)
    assert (report.requests_left, report.tokens_left) == (0, 0)
    assert report.growth_megabytes < GROWTH_MEGABYTES

"""The main job: the official client puts texts in and finds them again by meaning, with nothing faked on the way."""

from tests import sample_files
from tests.e2e.conftest import ANSWER, QUESTION, TEXTS, Stack


def test_a_text_is_found_by_its_meaning(stack: Stack) -> None:
    page = stack.quiver.vector_stores.search(stack.stores["unregistered"], query=QUESTION, max_num_results=2)

    assert page.data[0].content[0].text == ANSWER
    assert page.data[0].attributes == {"topic": "returns", "year": 2024}
    assert 0.5 < page.data[1].score < page.data[0].score < 1


def test_a_filter_narrows_what_is_found(stack: Stack) -> None:
    page = stack.quiver.vector_stores.search(
        stack.stores["unregistered"], query=QUESTION, filters={"type": "lt", "key": "year", "value": 2024}
    )

    assert {result.attributes["topic"] for result in page.data if result.attributes} == {"bread", "support"}


def test_the_store_knows_the_real_models_dimension(stack: Stack) -> None:
    store = stack.quiver.vector_stores.retrieve(stack.stores["unregistered"])

    assert store.to_dict()["embedding_model"] == "all-minilm-l6-v2"
    assert store.to_dict()["embedding_dimension"] == 384
    assert store.file_counts.completed == len(TEXTS)


def test_everything_is_ready(stack: Stack) -> None:
    ready = stack.quiver.get("/../ready", cast_to=object)

    assert ready == {"status": "ok", "checks": dict.fromkeys(["database", "migrations", "embedding_service"], "ok")}


def test_forty_files_of_all_types_are_uploaded_and_found(stack: Stack) -> None:
    samples = sample_files.samples()
    store = stack.quiver.vector_stores.create(name="forty")
    files = [(sample.name, sample.content) for sample in samples]
    batch = stack.quiver.vector_stores.file_batches.upload_and_poll(store.id, files=files)

    listed = list(stack.quiver.vector_stores.files.list(store.id, limit=100))
    names = {file.id: stack.quiver.files.retrieve(file.id).filename for file in listed}
    texts = {
        names[file.id]: "".join(
            part.text or "" for part in stack.quiver.vector_stores.files.content(file.id, vector_store_id=store.id)
        )
        for file in listed
    }

    assert len(samples) >= 40
    assert [(names[file.id], file.last_error) for file in listed if file.status != "completed"] == []
    assert (batch.status, batch.file_counts.completed) == ("completed", len(samples))
    assert [
        sample.name
        for sample in samples
        if not all(sentence.strip() in texts[sample.name] for sentence in sample.expected)
    ] == []

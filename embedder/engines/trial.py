"""The first load of a model: its exports are made, compared with the original, and the fastest true one wins."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from embedder.engines import Engine, ModelSpec, Tokens, exporting, sources
from embedder.engines.checking import TRUE, TRUE_ENOUGH, check_texts, compute_all, fidelity, seconds_taken
from embedder.engines.choices import Choice, Library
from embedder.engines.exporting import Plain, as_plain
from embedder.engines.exports import TOKENIZER_FILE, made, write_recipe
from embedder.engines.loading import Kept, open_session
from embedder.engines.rows import Computed
from embedder.engines.token_engine import Session, TokenEngine
from embedder.engines.torch_models import Original, TextEngine, TorchSession
from embedder.errors import ModelUnavailable

EXPORTERS: dict[str, Callable[[Plain, Path], None]] = {
    "openvino-f32": exporting.export_openvino,
    "openvino-bf16": exporting.export_openvino,  # rounded when it is loaded
    "openvino-int8": exporting.export_openvino_int8,
    "onnx-f32": exporting.export_onnx,
    "onnx-int8": exporting.export_onnx_int8,
}

# How many times as fast as ONNX Runtime a library must be to be chosen. torch takes seconds to start and three times
# the memory. OpenVINO takes half as much memory again, and two measurements may differ by a tenth.
HANDICAPS: Mapping[Library, float] = {"onnx": 1.0, "openvino": 1.1, "torch": 1.5}

log = structlog.get_logger()


class NotTrue(Exception):
    """The engine's vectors are too far from the original's."""


def choose_engine(original: Original, kept: Kept) -> Engine:
    plain = as_plain(original)
    if plain is None:
        return as_it_is(original, kept.spec)
    contest = Contest(plain, kept)
    session = contest.enter(kept.choices[0]) if len(kept.choices) == 1 else contest.fastest()
    return TokenEngine(session, tokenizer=plain.tokenizer, recipe=plain.recipe, spec=kept.spec)


def as_it_is(original: Original, spec: ModelSpec) -> Engine:
    if spec.engine not in ("auto", "torch"):
        raise ModelUnavailable(
            f"The model {spec.source!r} is no plain transformer, which the engine {spec.engine!r} could run; "
            "declare it with 'engine: auto'."
        )
    if spec.dtype not in ("auto", "float32"):
        raise ModelUnavailable(
            f"The model {spec.source!r} is no plain transformer, which alone can run in {spec.dtype!r}; "
            "declare it without 'dtype'."
        )
    return TextEngine(original, name="torch-f32", spec=spec)


def chosen(seconds: Mapping[Choice, float]) -> Choice:
    """The engine to take, by how long each took for the same."""
    return min(seconds, key=lambda choice: seconds[choice] * HANDICAPS[choice.library])


class Contest:
    """The engines of one model, each held against what the original computes of the check set."""

    def __init__(self, plain: Plain, kept: Kept) -> None:
        self._plain = plain
        self._kept = kept
        self._tokens: list[Tokens] = plain.tokenize(check_texts(plain.recipe.kind))
        self._expected: Computed | None = None

    def fastest(self) -> Session:
        """The fastest of those whose vectors are true; one that cannot be made is passed over."""
        sessions: dict[Choice, Session] = {}
        seconds: dict[str, float] = {}
        for choice in self._kept.choices:
            try:
                session = self.enter(choice)
            except Exception as error:  # noqa: BLE001  # an exporter may fail in any way; other engines remain
                log.warning("engine_passed_over", engine=choice.name, reason=sources.first_line(error))
                continue
            sessions[choice] = session
            best = min(seconds.values(), default=math.inf)
            seconds[choice.name] = seconds_taken(session, self._tokens, self._plain.recipe, to_beat=best)
        if not sessions:
            raise ModelUnavailable(f"No engine here computes the model {self._kept.spec.source!r}; the log says why.")
        winner = chosen({choice: seconds[choice.name] for choice in sessions})
        for choice in sessions.keys() - {winner}:
            sessions[choice].close()
        self._kept.keep_choice(winner, seconds=seconds)
        log.info("engine_chosen", engine=winner.name, seconds=seconds)
        return sessions[winner]

    def enter(self, choice: Choice) -> Session:
        """Make an engine's export, unless it is there, and check it before it is kept.

        Raises:
            NotTrue: its vectors are too far from the original's.
        """
        if choice.library == "torch":
            return self._enter_torch(choice)
        export = self._kept.export(choice)
        with made(export) as filling:
            if filling is not None:
                log.info("exporting", engine=choice.name, to=str(export))
                EXPORTERS[choice.name](self._plain, filling)
                session = open_session(filling, choice, spec=self._kept.spec)
                recipe = replace(self._plain.recipe, fidelity=self._check(session, choice))
                session.close()  # some systems move no file that is open
                (filling / TOKENIZER_FILE).write_text(self._plain.tokenizer)
                write_recipe(filling, recipe)
        return open_session(export, choice, spec=self._kept.spec)

    def _enter_torch(self, choice: Choice) -> Session:
        if choice.precision == "float32":
            return TorchSession(self._plain.original, name=choice.name)
        import torch

        inner = copy.deepcopy(self._plain.original.model)
        inner.to(dtype=getattr(torch, choice.precision))
        session = TorchSession(Original(inner, kind=self._plain.recipe.kind), name=choice.name)
        self._check(session, choice)
        return session

    def _check(self, session: Session, choice: Choice) -> float:
        if self._expected is None:
            original = TorchSession(self._plain.original, name="torch-f32")
            self._expected = compute_all(original, self._tokens, self._plain.recipe)
        computed = compute_all(session, self._tokens, self._plain.recipe)
        found = fidelity(self._expected, computed, kind=self._plain.recipe.kind)
        bound = TRUE_ENOUGH if choice.precision == "int8" else TRUE
        log.info("engine_checked", engine=choice.name, mean_cosine=round(found, 6), bound=bound)
        if not found >= bound:
            raise NotTrue(f"the mean cosine to the original is {found:.5f}, below the bound of {bound}")
        return found

"""What a server resolves before it serves, and why: cores, engines, lanes, budgets, upstreams, limits.

Nothing listens here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..bundle.specs import Layout
from ..runtime.batching import PACK_MULTIPLE
from ..runtime.cores import CoreLimits, core_limits
from ..runtime.heap import keep_freed_memory
from ..runtime.predictor import Predictor
from .forecast import Forecast
from .models import load_models
from .plane import DataPlane
from .served import Served
from .served_model import ServedModel
from .settings import Settings, check, fitted
from .upstream_model import UpstreamModel
from .upstreams import connect_upstreams

LENGTHS = (16, 32, 64, 128, 256, 512)
"""Tokens of one text whose forecast is told, as far as the model takes so many."""

_LAYOUTS = {
    Layout.PADDED: "rows padded to the longest of a call",
    Layout.PACKED: f"all texts of a call in one row without padding, rounded up to {PACK_MULTIPLE} tokens",
}


@dataclass(frozen=True)
class Choice:
    """Something that was resolved.

    Attributes:
        value: what it is.
        why: a sentence.
    """

    value: Any
    why: str


@dataclass(frozen=True)
class ModelExplanation:
    """One model as it would be served.

    Attributes:
        model: name and version, as ``intent/1``.
        bundle_digest: the bundle's identity.
        choices: by name: ``engine``, ``layout``, ``lanes``, ``threads``, ``wide``, ``token_budget``, ``max_rows``,
            ``correction``; of a model that others answer for ``upstream``, ``engine`` and each instance.
        forecast_ms: milliseconds of a call with one text of so many tokens, corrected.
        wide_forecast_ms: the same on the wide engine; empty where there is none.
    """

    model: str
    bundle_digest: str
    choices: dict[str, Choice]
    forecast_ms: dict[int, float]
    wide_forecast_ms: dict[int, float]


@dataclass(frozen=True)
class Explanation:
    """A server as it would be.

    Attributes:
        cores: usable ones.
        models: each version of each model.
        addresses: by transport, ``host:port``.
        limits: as ``Settings.limits`` names them.
    """

    cores: Choice
    models: tuple[ModelExplanation, ...]
    addresses: dict[str, str]
    limits: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """As JSON's own types."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """For people: name, value and reason."""
        rows = [_row("cores", self.cores)]
        for model in self.models:
            rows += [
                (model.model, model.bundle_digest[:16], "the bundle's digest begins so"),
                *(_row(f"  {name}", choice) for name, choice in model.choices.items()),
                *(
                    (f"  {name}", "", "ms of a call with one text, by its tokens: " + _list(forecast))
                    for name, forecast in (("forecast", model.forecast_ms), ("wide forecast", model.wide_forecast_ms))
                    if forecast
                ),
            ]
        rows += [(transport, address, "") for transport, address in self.addresses.items()]
        return rows + [(name, f"{value:.10g}", "") for name, value in self.limits.items()]


def explain(settings: Settings, predictors: Sequence[Predictor] = ()) -> Explanation:
    """Load what would be served, as it would be, and tell what it became. No port is opened.

    Raises:
        As ``serve.app.run``, but for ports in use.
    """
    check(settings)
    settings = replace(settings, wire=fitted(settings.wire))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed_memory()  # as the server does: what calls take is measured
    return asyncio.run(_explain(settings, predictors))


async def _explain(settings: Settings, predictors: Sequence[Predictor]) -> Explanation:
    plane = DataPlane(settings.capacity, default_timeout=settings.default_timeout)
    try:
        for predictor in predictors:
            plane.add(predictor)
        if not predictors and (settings.models or not settings.upstreams):
            for loaded in await load_models(
                settings.store, settings.models, engine=settings.engine, threads=settings.threads
            ):
                plane.add(loaded.predictor, version=str(loaded.reference.version), chosen=loaded.chosen)
        await plane.warm()
        for upstream in await connect_upstreams(settings, plane.metrics):
            plane.adopt(upstream)
        limits = core_limits()
        return Explanation(
            cores=Choice(limits.usable, _why_cores(limits)),
            models=tuple(_explained(served, settings, limits.usable) for served in plane.served()),
            addresses={
                "grpc": f"{settings.host}:{settings.grpc_port}",
                "http": f"{settings.host}:{settings.http_port}",
            },
            limits=settings.limits(),
        )
    finally:
        plane.close()


def _list(forecast: Mapping[int, float]) -> str:
    return ", ".join(f"{tokens}: {ms:.2f}" for tokens, ms in forecast.items())


def _row(name: str, choice: Choice) -> tuple[str, str, str]:
    return name, str(choice.value), choice.why


def _why_cores(limits: CoreLimits) -> str:
    quota = "no CPU quota" if limits.quota is None else f"a CPU quota of {limits.quota:g}"
    return f"{limits.affinity} of the machine's {limits.logical} in the affinity mask, {quota} of the cgroup"


def _explained(served: Served, settings: Settings, cores: int) -> ModelExplanation:
    if isinstance(served, UpstreamModel):
        return ModelExplanation(str(served), served.digest, _upstream(served, settings), {}, {})
    if not isinstance(served, ServedModel):
        raise TypeError(f"nothing is known of a {type(served).__name__}")
    return _model(served, settings, cores)


def _upstream(served: UpstreamModel, settings: Settings) -> dict[str, Choice]:
    told = served.described.told
    packed = "its archive was packed by another tool: only label and score are known of an answer"
    requests = "requests under way at most: " + (
        "named by --upstream-requests"
        if settings.upstream_requests
        else "the archive doesn't say how many it takes at once"
        if told
        else "twice what its workers take at once"
    )
    return {
        "upstream": Choice("torchserve", packed if told else "its archive was packed by nlpdeploy, and says the rest"),
        "engine": Choice(served.engine_id, f"{served.described.runtime}, {served.described.precision}"),
        **{
            f"instance {instance}": Choice(
                instance.slots if instance.up else "out", requests if instance.up else instance.reason
            )
            for instance in served.instances
        },
    }


def _model(served: ServedModel, settings: Settings, cores: int) -> ModelExplanation:
    predictor = served.predictor
    layout = predictor.engine.layout
    policy, forecast = served.policy, served.forecast
    choices = {
        "engine": Choice(served.engine_id, _why_engine(served, settings)),
        "layout": Choice(str(layout), _LAYOUTS[layout]),
        **_lanes(predictor, cores),
        "token_budget": Choice(policy.max_tokens, _why_budget(layout)),
        "max_rows": Choice(policy.max_rows, "most texts of one call"),
        "correction": Choice(round(forecast.correction, 3), "measured over fitted time of a call on this machine"),
    }
    lengths = [length for length in LENGTHS if length <= predictor.model.max_length]
    return ModelExplanation(
        str(served), served.digest, choices, _told(forecast, lengths), _told(served.wide_forecast, lengths)
    )


def _told(forecast: Forecast | None, lengths: Sequence[int]) -> dict[int, float]:
    return {length: round(1000 * forecast.seconds(length, 1), 3) for length in lengths} if forecast else {}


def _why_engine(served: ServedModel, settings: Settings) -> str:
    default, entry = served.predictor.manifest.default_engine, served.entry
    if entry is None:
        return "the untouched checkpoint, the baseline"
    if settings.engine is not None:
        why = "named by --engine"
    elif served.engine_id == default:
        why = "the bundle's default"
    else:
        why = f"the bundle's default {default} can't run here, this one took over"
    if entry.latency:
        why += f": when exported p50 {entry.latency.p50_ms:.2f} ms a text, {entry.latency.speedup:.1f} x the checkpoint"
    if entry.accuracy:
        why += f", {entry.accuracy.measure} {entry.accuracy.accuracy:.4f}"
    return why


def _lanes(predictor: Predictor, cores: int) -> dict[str, Choice]:
    chosen = predictor.layout_choice
    if chosen is None:
        return {"lanes": Choice(len(predictor.lanes), "calls side by side")}
    measured = [
        f"{what}: {lane:.2f} ms in a lane, {wide:.2f} ms wide"
        for what, times in (("a lone text", chosen.lone_ms), (f"{chosen.long_tokens} tokens", chosen.long_ms))
        if times is not None
        for lane, wide in (times,)
    ]
    return {
        "lanes": Choice(chosen.lanes, f"calls side by side on {cores} usable cores"),
        "threads": Choice(chosen.threads, "of each lane"),
        "wide": Choice(chosen.wide or "none", "; ".join([chosen.reason, *measured])),
    }


def _why_budget(layout: Layout) -> str:
    if layout is Layout.PACKED:
        return "tokens of one call, from the latency curve: a larger one would cost no less a token"
    return "padded elements of one call, which bounds its memory"

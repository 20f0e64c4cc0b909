from __future__ import annotations

from importlib.metadata import version

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from handler import errors
from handler.engine import Engine
from handler.installation import builds
from handler.metrics import Metrics
from tests.fakes import SumCore
from tests.test_engine import engine_with, soon


def samples(metrics: Metrics) -> list[Sample]:
    """Parse the exposition the way Prometheus does."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return [sample for family in families for sample in family.samples]


def scraped(metrics: Metrics) -> dict[str, float]:
    """Return every value; labels are part of the key."""
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for sample in samples(metrics)
    }


def test_answers_are_counted_by_route_and_status() -> None:
    """And refusals by reason."""
    metrics = Metrics(slots=4, in_flight=lambda: 3, is_ready=lambda: True)
    metrics.answered(route="/v1/embeddings", status=200, seconds=0.01, reason=None)
    metrics.answered(route="/v1/embeddings", status=429, seconds=0.01, reason="overloaded")
    seen = scraped(metrics)
    assert seen["embed_requests_total,/v1/embeddings,200"] == 1
    assert seen["embed_requests_total,/v1/embeddings,429"] == 1
    assert seen["embed_rejected_total,overloaded"] == 1
    assert seen["embed_request_seconds_count,/v1/embeddings"] == 2
    assert (seen["embed_slots"], seen["embed_in_flight"], seen["embed_ready"]) == (4, 3, 1)


def test_work_is_counted_in_inputs_tokens_and_seconds() -> None:
    """Stage times come in milliseconds and go out in seconds."""
    metrics = Metrics(slots=1, in_flight=lambda: 0, is_ready=lambda: False)
    metrics.embedded(inputs=3, tokens=50, stages_ms={"engine": 1500})
    seen = scraped(metrics)
    assert (seen["embed_inputs_total"], seen["embed_tokens_total"]) == (3, 50)
    assert seen["embed_stage_seconds_sum,engine"] == 1.5


def test_the_start_is_told() -> None:
    """Phases, model, and whether it is ready."""
    metrics = Metrics(slots=1, in_flight=lambda: 0, is_ready=lambda: False)
    metrics.started(phases_s={"imports": 4.5}, model={"name": "m"})
    seen = scraped(metrics)
    assert seen["embed_start_phase_seconds,imports"] == 4.5
    assert seen["embed_ready"] == 0
    (told,) = [sample.labels for sample in samples(metrics) if sample.name == "embed_model_info"]
    assert told["name"] == "m"
    assert (told["vllm"], told["torch"]) == (builds()["vllm"], version("torch"))


def test_every_reason_is_there_from_the_start() -> None:
    """A counter that appears with its first error shows no increase for it."""
    metrics = Metrics(slots=1, in_flight=lambda: 0, is_ready=lambda: False)
    seen = scraped(metrics)
    for error in (errors.OverloadedError, errors.NotReadyError, errors.AuthenticationError, errors.InternalError):
        assert seen[f"embed_rejected_total,{error.code or error.type}"] == 0
    metrics.refused(route="unknown", status=431, reason="request_too_large")
    seen = scraped(metrics)
    assert seen["embed_rejected_total,request_too_large"] == seen["embed_requests_total,unknown,431"] == 1


def test_the_engines_batches_are_read_at_the_scrape() -> None:
    """A histogram of the texts of each step, and what still waits; zeros while there is no engine."""
    engine: Engine | None = None
    metrics = Metrics(slots=1, in_flight=lambda: 0, is_ready=lambda: True, engine=lambda: engine)
    assert scraped(metrics)["embed_engine_batch_texts_count"] == scraped(metrics)["embed_engine_waiting_texts"] == 0
    core = SumCore(batch_size=4)
    engine = engine_with(core)
    engine.embed([[1]] * 9, deadline=soon())  # steps of 4, 4 and 1
    core.gate.clear()
    seen = scraped(metrics)
    assert (seen["embed_engine_batch_texts_count"], seen["embed_engine_batch_texts_sum"]) == (3, 9)
    buckets = [seen[f"embed_engine_batch_texts_bucket,{bound}"] for bound in ("0.0", "1.0", "3.0", "7.0", "+Inf")]
    assert buckets == [0, 1, 1, 3, 3]
    assert seen["embed_engine_waiting_texts"] == 0
    core.gate.set()

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from handler.metrics import Metrics


def scraped(metrics: Metrics) -> dict[str, float]:
    """Parse the exposition the way Prometheus does; labels are part of the key."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
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
    assert seen["embed_request_seconds_count"] == 2
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
    metrics.started(phases_s={"imports": 4.5}, model={"name": "m", "vllm": "0.32.0"})
    seen = scraped(metrics)
    assert seen["embed_start_phase_seconds,imports"] == 4.5
    assert seen["embed_ready"] == 0
    assert seen["embed_model_info,m,0.32.0"] == 1

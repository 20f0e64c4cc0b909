"""The dashboard and the alert rules against a live scrape of the real server by the real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.monitoring.prometheus import CONFIG, RULES, Prometheus, tool
from tests.server import ROOT, Server, free_port

DASHBOARD: dict[str, Any] = json.loads((ROOT / "infra/grafana/dashboard.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PAGE = (ROOT / "infra/monitoring.md").read_text()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
COMPARISON = re.compile(r"^(.+?)\s(?:==|!=|<=|>=|<|>)\s[\d.]+$", re.DOTALL)


def without_comparison(expression: str) -> str:
    """Return what an alert looks at: its expression up to the comparison that ends it."""
    match = COMPARISON.match(expression.strip())
    assert match, expression
    return match[1]


def as_grafana_sends_it(expression: str) -> str:
    """Fill in the dashboard's variables as it does with all containers chosen."""
    filled = re.sub(r"\$(job|instance)", ".*", expression).replace("$__rate_interval", "1m")
    assert "$" not in filled
    return filled


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A scrape from before the first request to after the last, good, bad, refused and late ones among them."""
    metrics = free_port()
    settings = {"EMBED_METRICS_PORT": str(metrics), "EMBED_API_KEYS": "test-key", "EMBED_REQUEST_TIMEOUT_S": "3"}
    folder = tmp_path_factory.mktemp("prometheus")
    with Server(**settings) as server, Prometheus(folder, target=metrics) as prometheus:
        server.wait_ready()
        statuses = ask(server)
        prometheus.wait_scraped(2)
        assert ask(server) == statuses == [200, 200, 400, 401, 404, 504]
        prometheus.wait_scraped(2)
        yield prometheus


def ask(server: Server) -> list[int]:
    """Send one request of each kind; the last is more than can be embedded in time."""
    answers = [
        server.embed(input="a"),
        server.embed(input=["a text", "another text"] * 20),
        server.embed(input=[]),
        server.embed(input="a", key="wrong"),
        server.embed(input="a", model="other"),
        server.embed(input=["late " * 250] * 2048),
    ]
    return [answer.status_code for answer in answers]


@pytest.mark.parametrize("title", QUERIES)
def test_each_panel_finds_its_series(prometheus: Prometheus, title: str) -> None:
    """Every query of every panel has a number."""
    assert prometheus.values(as_grafana_sends_it(QUERIES[title]))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_rule_finds_its_series(prometheus: Prometheus, alert: dict[str, Any]) -> None:
    """What the rule compares is there, though it rests; Prometheus itself evaluates it without an error."""
    assert prometheus.values(without_comparison(alert["expr"]))
    rules = {rule["name"]: rule for rule in prometheus.get("rules")["groups"][0]["rules"]}
    assert rules[alert["alert"]]["health"] == "ok"


def test_shares_are_of_what_was_asked() -> None:
    """No probe and no scrape is in a count of requests: they would hide errors where little is asked."""
    counts = [
        count
        for expression in [*QUERIES.values(), *(alert["expr"] for alert in ALERTS)]
        for count in re.findall(r"embed_requests_total(\{[^}]*\})?", expression)
    ]
    assert len(counts) >= 6
    assert [count for count in counts if "route" not in count and 'status="504"' not in count] == []


def test_the_variables_of_the_dashboard_find_their_values(prometheus: Prometheus) -> None:
    """Job and container are labels of the series that they are read from."""
    for variable in DASHBOARD["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert match
        assert prometheus.get(f"label/{match[2]}/values", **{"match[]": as_grafana_sends_it(match[1])})


def test_a_series_that_does_not_exist_is_noticed(prometheus: Prometheus) -> None:
    """The checks above can fail: for a misspelt metric, a label that no series has, and a quotient of nothing."""
    for query in ("embed_request_total", 'embed_in_flight{route="x"}', "0 * embed_slots / 0"):
        assert prometheus.values(query) == []


def test_names_and_units_follow_the_conventions(prometheus: Prometheus) -> None:
    """Promtool's linter finds nothing in the exposition."""
    target = prometheus.get("targets")["activeTargets"][0]["scrapeUrl"]
    exposition = httpx.get(target).text
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=exposition, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_rules_and_configuration_are_valid() -> None:
    """Promtool reads both."""
    for kind, path in (("rules", RULES), ("config", CONFIG)):
        done = subprocess.run([tool("promtool"), "check", kind, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_says_what_to_do() -> None:
    """How long it must hold, how bad it is, what it means, what to look at; the page explains each."""
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert["for"]
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(alert["annotations"]) == {"summary", "runbook"}
        assert f"| `{alert['alert']}` |" in PAGE


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    """Grafana's own types keep every field of it, so none is misspelt or of a wrong type."""
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(lost(DASHBOARD, read)) == []
    assert list(lost({**DASHBOARD, "titel": "x"}, read)) == ["/titel"]


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Name every field of *given* that *kept* has not, or has otherwise."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept[name], f"{path}/{name}") if name in kept else [f"{path}/{name}"]
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, value in enumerate(given):
            yield from lost(value, kept[index], f"{path}/{index}")
    elif given != kept:
        yield path


def test_the_panels_lie_side_by_side() -> None:
    """No two in one place, none beyond the 24 columns, each explained."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["description"] for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])

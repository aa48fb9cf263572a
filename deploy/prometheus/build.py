"""Writes what comes from the table of alerts: `make docs`. A test fails when a file is stale.

- `deploy/prometheus/rules.yaml`: rules for Prometheus
- `deploy/kubernetes/components/monitoring/prometheusrule.yaml`: the same for the Prometheus operator
- the table of alerts in `docs/runbook.md`
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
OPERATOR_RULE = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"
RUNBOOK_BASE = "docs/runbook.md"  # a path in the source: where it is published is for each site to say
RUNBOOK = ROOT / "docs" / "runbook.md"
MADE = "# Made by deploy/prometheus/build.py: change the table there, then `make docs`.\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        expr: PromQL; FLEET and WORKER stand for the labels to group by.
        wait: how long `expr` must hold, as a PromQL duration.
        severity: critical when uploads are not tagged or were lost, warning when that comes next.
        condition: `expr` in words, for the runbook.
        summary: what the page says, with Prometheus' templates.
    """

    name: str
    severity: Literal["critical", "warning"]
    wait: str
    condition: str
    summary: str
    expr: str


# Workers of one consumer group share job and namespace; labels that are missing group as empty ones.
FLEET, WORKER = "by (namespace, job)", "by (namespace, job, instance)"

ALERTS = (
    Alert("ImgclustWorkerDown", "critical", "2m",
        "a worker does not answer scrapes",
        "{{ $labels.instance }} does not answer",
        'up{job=~"imgclust.*"} == 0'),
    Alert("ImgclustNoTagger", "critical", "5m",
        "no worker owns a partition",
        "No worker owns a partition of the uploads topic",
        "absent(imgclust_consumer_assigned_partitions > 0)"),
    Alert("ImgclustWorkerRestarts", "warning", "0m",
        "a worker started more than three times in 30 minutes",
        "{{ $labels.instance }} started {{ $value }} times in 30 minutes",
        f"sum {WORKER} (changes(imgclust_start_time_seconds[30m])) > 3"),
    Alert("ImgclustPartitionsWithoutOwner", "warning", "10m",
        "fewer partitions are owned than in the last hour",
        "Partitions of the uploads topic have no owner in {{ $labels.job }}",
        f"sum {FLEET} (imgclust_consumer_assigned_partitions)\n"
        f"  < max_over_time(sum {FLEET} (imgclust_consumer_assigned_partitions)[1h:1m])"),
    Alert("ImgclustPartitionCannotBegin", "critical", "2m",
        "a worker owns partitions but cannot begin to read them",
        "{{ $labels.instance }} cannot begin {{ $value }} of its partitions",
        f"sum {WORKER} (imgclust_consumer_waiting_partitions) > 0"),
    Alert("ImgclustLagRising", "warning", "10m",
        "more than a minute behind, and falling further behind",
        "{{ $labels.job }} is falling behind",
        f"max {FLEET} (imgclust_consumer_lag_seconds) > 60\n"
        f"  and deriv(max {FLEET} (imgclust_consumer_lag_seconds)[10m:1m]) > 0"),
    Alert("ImgclustLagHigh", "critical", "5m",
        "more than 15 minutes behind",
        "{{ $labels.job }} is {{ $value | humanizeDuration }} behind",
        f"max {FLEET} (imgclust_consumer_lag_seconds) > 900"),
    Alert("ImgclustNoProgress", "critical", "5m",
        "records wait, but a worker has taken in and finished nothing for 5 minutes",
        "{{ $labels.instance }} is doing nothing although uploads are waiting",
        f"sum {WORKER} (imgclust_consumer_lag_records) > 0\n"
        f'  and sum {WORKER} (rate(imgclust_stage_received_total{{stage="consume"}}[5m])) == 0\n'
        f"  and sum {WORKER} (rate(imgclust_uploads_total[5m])) == 0"),
    Alert("ImgclustEncoderIdle", "warning", "10m",
        "a worker is more than 30 seconds behind, but its encoder is busy less than half of the time",
        "{{ $labels.instance }} is behind, but its encoder is {{ $value | humanizePercentage }} busy",
        f'sum {WORKER} (rate(imgclust_stage_busy_seconds_total{{stage="encode"}}[5m])) < 0.5\n'
        f"  and max {WORKER} (imgclust_consumer_lag_seconds) > 30"),
    Alert("ImgclustPollGap", "warning", "1m",
        "a worker has not polled Kafka for 30 seconds",
        "{{ $labels.instance }} has not polled Kafka for {{ $value | humanizeDuration }}",
        f"max {WORKER} (imgclust_poll_gap_seconds) > 30"),
    Alert("ImgclustRebalanceStorm", "warning", "20m",
        "a worker's partitions change more than five times in 10 minutes, for half an hour",
        "The group of {{ $labels.job }} keeps rebalancing",
        f"max {FLEET} (increase(imgclust_consumer_rebalances_total[10m])) > 5"),
    Alert("ImgclustTransactionAborts", "warning", "10m",
        "more than 5 % of commits do not succeed",
        "{{ $value | humanizePercentage }} of the commits of {{ $labels.job }} do not succeed",
        f'sum {FLEET} (rate(imgclust_commits_total{{outcome!="committed"}}[10m]))\n'
        f"  / sum {FLEET} (rate(imgclust_commits_total[10m])) > 0.05"),
    Alert("ImgclustRecordsLost", "critical", "0m",
        "unread uploads are gone: retention removed them, or the topic was deleted",
        "{{ $labels.job }} lost {{ $value | printf \"%.0f\" }} uploads that Kafka no longer has",
        # or a worker's first scrape shows some: they are lost when it starts
        f"sum {FLEET} (\n"
        "  increase(imgclust_consumer_records_lost_total[1h]) > 0\n"
        "  or (imgclust_consumer_records_lost_total > 0\n"
        "    unless imgclust_consumer_records_lost_total offset 1h)\n"
        ")"),
    Alert("ImgclustFetchFailures", "warning", "5m",
        "more than 20 % of fetches fail or time out",
        "{{ $value | humanizePercentage }} of the fetches of {{ $labels.job }} fail",
        "(\n"
        f'  sum {FLEET} (rate(imgclust_retries_total{{error_code=~"fetch-.*"}}[5m]))\n'
        f'  + sum {FLEET} (rate(imgclust_dead_letters_total{{error_code=~"fetch-.*"}}[5m]))\n'
        f') / sum {FLEET} (rate(imgclust_stage_finished_total{{stage="fetch"}}[5m])) > 0.2'),
    Alert("ImgclustDeadLetters", "warning", "5m",
        "more than 5 % of uploads, and more than ten in 15 minutes, become dead letters with one code",
        "{{ $value | humanizePercentage }} of uploads of {{ $labels.job }} become dead letters: "
        "{{ $labels.error_code }}",
        "sum by (namespace, job, error_code) (rate(imgclust_dead_letters_total[15m]))\n"
        f"  / ignoring (error_code) group_left sum {FLEET} (rate(imgclust_uploads_total[15m])) > 0.05\n"
        "  and sum by (namespace, job, error_code) (increase(imgclust_dead_letters_total[15m])) > 10"),
    Alert("ImgclustFetchersCrash", "warning", "0m",
        "more than five fetcher processes of a worker died in 15 minutes",
        "Fetcher processes of {{ $labels.instance }} keep crashing",
        f"sum {WORKER} (increase(imgclust_fetcher_restarts_total[15m])) > 5"),
    Alert("ImgclustOutOfMemory", "critical", "0m",
        "a batch did not fit into the device's memory",
        "The device of {{ $labels.instance }} has too little memory for its batches",
        f"sum {WORKER} (increase(imgclust_encoder_out_of_memory_total[15m])) > 0"),
    Alert("ImgclustViewBehind", "warning", "5m",
        "tags have been waiting for more than a minute to reach Redis",
        "Redis is {{ $value | humanizeDuration }} behind the tags of {{ $labels.job }}",
        f"max {FLEET} (imgclust_view_lag_seconds) > 60"),
    Alert("ImgclustTagsLate", "warning", "5m",
        "the objective is missed: over 15 minutes, more than 5 % of tags came more than 30 seconds after "
        "their upload",
        "{{ $value | humanizePercentage }} of the tags of {{ $labels.job }} are more than 30 seconds late",
        f'1 - sum {FLEET} (rate(imgclust_end_to_end_seconds_bucket{{le="30.0"}}[15m]))\n'
        f"  / sum {FLEET} (rate(imgclust_end_to_end_seconds_count[15m])) > 0.05"),
    Alert("ImgclustServeFull", "warning", "5m",
        "more than 1 % of requests to `imgclust-worker serve` are refused because too many are waiting",
        "{{ $value | humanizePercentage }} of requests to {{ $labels.job }} are refused: too many wait",
        f'sum {FLEET} (rate(imgclust_serve_requests_total{{outcome="full"}}[5m]))\n'
        f"  / sum {FLEET} (rate(imgclust_serve_requests_total[5m])) > 0.01"),
    Alert("ImgclustMixedModels", "warning", "30m",
        "workers of one group have used different model versions for half an hour",
        "{{ $labels.job }} tags with {{ $value }} model versions at once",
        f"count {FLEET} (count by (namespace, job, version) (imgclust_model_info)) > 1"),
    Alert("ImgclustModelRefused", "warning", "5m",
        "a worker cannot use the model that the models topic names",
        "{{ $labels.instance }} cannot use the {{ $labels.role }} model that the topic names",
        "max by (namespace, job, instance, role) (imgclust_model_refused) == 1"),
    Alert("ImgclustDrift", "warning", "1h",
        "clusters, probabilities or similarities differ from the model's held-out images by an index "
        "above 0.25, and by more than chance",
        "What {{ $labels.job }} sees is not what its model was fitted on: {{ $labels.part }}",
        "max by (namespace, job, part) (imgclust_drift_psi > imgclust_drift_psi_chance) > 0.25"),
)  # fmt: skip


def runbook_url(alert: Alert, base: str) -> str:
    return f"{base}#{alert.name.lower()}"


def shorter(duration: str, divisor: float) -> str:
    """A PromQL duration divided: "5m" by 60 is "5000ms"."""
    number, unit = int(duration[:-1]), duration[-1]
    return f"{round(number * {'s': 1, 'm': 60, 'h': 3600}[unit] * 1000 / divisor)}ms"


def rules(divisor: float = 1, base: str = RUNBOOK_BASE) -> dict[str, Any]:
    """Prometheus' rules.

    Args:
        divisor: every duration in them is so much shorter, for tests that watch.
        base: the address of the runbook.
    """

    def timed(text: str) -> str:
        return text if divisor == 1 else re.sub(r"\b\d+[smh]\b", lambda m: shorter(m[0], divisor), text)

    return {
        "groups": [
            {
                "name": "imgclust",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": timed(alert.expr),
                        "for": timed(alert.wait),
                        "labels": {"severity": alert.severity},
                        "annotations": {"summary": alert.summary, "runbook_url": runbook_url(alert, base)},
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stay readable."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def to_yaml(content: dict[str, Any]) -> str:
    return MADE + yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def operator_rule(base: str = RUNBOOK_BASE) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "imgclust", "labels": {"app.kubernetes.io/name": "imgclust"}},
        "spec": rules(base=base),
    }


def table() -> str:
    """The runbook's table, in Markdown."""
    lines = ["| alert | when | for | severity |", "|---|---|---|---|"]
    lines += [
        f"| [{a.name}](#{a.name.lower()}) | {a.condition} | "
        f"{'at once' if a.wait == '0m' else a.wait.replace('m', ' min').replace('h', ' h')} | {a.severity} |"
        for a in ALERTS
    ]
    return "\n".join(lines) + "\n"


def runbook(text: str) -> str:
    """The runbook with its table made anew."""
    place = r"(<!-- alerts -->\n).*?(<!-- /alerts -->)"
    text, count = re.subn(place, lambda m: m[1] + table() + m[2], text, flags=re.S)
    if count != 1:
        raise SystemExit(f"{RUNBOOK.name} must have one place for the table of alerts, has {count}")
    return text


def files(base: str = RUNBOOK_BASE) -> dict[Path, str]:
    """Path → content of everything that is made here."""
    return {
        RULES: to_yaml(rules(base=base)),
        OPERATOR_RULE: to_yaml(operator_rule(base)),
        RUNBOOK: runbook(RUNBOOK.read_text()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the alerts, with links to your copy of the runbook.")
    parser.add_argument(
        "--runbook", default=RUNBOOK_BASE, metavar="URL", help="of the page; default: %(default)s"
    )
    for path, content in files(parser.parse_args().runbook).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

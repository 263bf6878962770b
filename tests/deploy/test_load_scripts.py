"""The load scripts ask for what the server has, and say what a run was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from shortlist.v1 import orchestrator_pb2

SERVICE = orchestrator_pb2.DESCRIPTOR.services_by_name["Orchestrator"]


def load_folder(checkout: Path) -> Path:
    return checkout / "deploy" / "load"


def test_both_scripts_call_a_method_that_there_is(checkout: Path) -> None:
    ghz = json.loads((load_folder(checkout) / "recommend.json").read_text("utf-8"))
    k6 = (load_folder(checkout) / "k6_recommend.js").read_text("utf-8")
    (called,) = re.findall(r"'(shortlist\.v1\.\w+/\w+)'", k6)
    assert ghz["call"] == called
    service, method = called.split("/")
    assert service == SERVICE.full_name
    assert method in SERVICE.methods_by_name


def test_the_request_of_ghz_has_only_fields_that_there_are(checkout: Path) -> None:
    data = json.loads((load_folder(checkout) / "recommend.json").read_text("utf-8"))["data"]
    request = SERVICE.methods_by_name["Recommend"].input_type
    assert data.keys() <= set(request.fields_by_name)
    assert data["user"].keys() <= set(request.fields_by_name["user"].message_type.fields_by_name)


def test_the_shell_can_read_the_script(checkout: Path) -> None:
    subprocess.run(["sh", "-n", str(load_folder(checkout) / "ghz.sh")], check=True)


def test_a_report_becomes_one_line_of_the_answers_that_were_ok(checkout: Path) -> None:
    answers = [{"latency": 1e6 * (at + 1), "status": "OK"} for at in range(100)]
    refused = [{"latency": 5e9, "status": "ResourceExhausted"}] * 7
    report = {
        "rps": 19.9,
        "details": [*answers, *refused],
        "statusCodeDistribution": {"OK": 100, "ResourceExhausted": 7},
    }
    done = subprocess.run(
        [sys.executable, str(load_folder(checkout) / "ghz_line.py"), "20"],
        input=json.dumps(report),
        capture_output=True,
        text=True,
        check=True,
    )
    line = done.stdout.split()
    assert line[:6] == ["20", "19.9", "100", "51.0", "96.0", "100.0"]
    assert line[6:] == ["ResourceExhausted", "7"]

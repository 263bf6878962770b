from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.protocols.protocol import FilesAbsent, Protocol, protocol_names
from tests.benchmarks.protocols.files import write_lists


def test_the_three_protocols_are_there() -> None:
    assert protocol_names() == ("gowalla", "ml-1m", "ml-20m")


@pytest.mark.parametrize("name", protocol_names())
def test_every_published_row_has_all_figures_and_says_venue_and_year(name: str) -> None:
    protocol = Protocol.load(name)
    for row in protocol.published:
        assert row.figures.keys() == protocol.metrics.keys(), row.name
        assert re.search(r"(19|20)\d\d", row.citation), row.name


@pytest.mark.parametrize("name", protocol_names())
def test_pages_are_as_long_as_the_deepest_metric_and_nothing_but_ranking_decides(name: str) -> None:
    protocol = Protocol.load(name)
    slate = protocol.config().slate
    assert slate.diversity == 0
    if protocol.task == "ranking":
        assert slate.page_size == max(metric.k for metric in protocol.ranking_metrics)


def test_the_depth_of_a_metric_is_in_its_name() -> None:
    metrics = Protocol.load("ml-20m").ranking_metrics
    assert [(metric.measure, metric.k) for metric in metrics] == [
        ("capped_recall", 20),
        ("capped_recall", 50),
        ("ndcg", 100),
    ]


@pytest.mark.parametrize("name", protocol_names())
def test_an_empty_folder_is_refused_with_the_files_wanted_and_where_to_get_them(
    name: str, tmp_path: Path
) -> None:
    protocol = Protocol.load(name)
    with pytest.raises(FilesAbsent) as raised:
        protocol.check_files(tmp_path)
    assert protocol.homepage in str(raised.value)
    for file in protocol.files:
        assert (file.name in str(raised.value)) != file.optional


def test_the_validation_file_may_be_absent(tmp_path: Path) -> None:
    (write_lists(tmp_path) / "valid.txt").unlink()
    Protocol.load("gowalla").check_files(tmp_path)


def test_figures_of_a_metric_that_the_protocol_does_not_have_are_refused() -> None:
    document = Protocol.load("gowalla").model_dump() | {"metrics": {"recall@20": "recall"}}
    with pytest.raises(ValidationError, match="figures of other metrics"):
        Protocol.model_validate(document)


def test_a_measure_that_does_not_exist_is_refused_with_those_that_do() -> None:
    document = Protocol.load("gowalla").model_dump() | {"metrics": {"recall@20": "recal"}}
    with pytest.raises(ValidationError, match="capped_recall"):
        Protocol.model_validate(document)

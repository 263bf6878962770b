from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shortlist.schema import Schema
from training.fetch import (
    ChecksumMismatch,
    DownloadFailed,
    LicenceNotAccepted,
    UnsafeArchive,
    fetch,
    fetch_schema,
)
from training.presets import PresetNotChosen, UnknownPreset

EVENTS = b"user,item\nu,i\n"
UNVERIFIED = {"unverified": "nobody lists one"}


class Publisher:
    """A web server on this machine, with pages by path."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.cut_off: set[str] = set()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.answer(self)

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        page = self.pages.get(request.path)
        if page is None:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page[: len(page) // 2] if request.path in self.cut_off else page)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    running = Publisher()
    thread = threading.Thread(target=running.server.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


def schema_of(*downloads: dict[str, Any]) -> Schema:
    return Schema.of(
        {
            "name": "shop",
            "interactions": [{"path": "events.csv"}],
            "dataset": {
                "description": "A shop.",
                "homepage": "https://shop.example/data",
                "citation": "Shop 2024",
                "licence": {"name": "MIT", "text": "Do as you like."},
                "downloads": list(downloads),
            },
        }
    )


def archive_of(*files: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return content.getvalue()


class Fetching:
    """Fetches from the publisher into a folder, and remembers what was shown."""

    def __init__(self, publisher: Publisher, out: Path) -> None:
        self.publisher, self.out = publisher, out
        self.shown: list[str] = []

    def run(self, path: str, content: bytes | None, **download: Any) -> Any:
        if content is not None:
            self.publisher.pages[path] = content
        schema = schema_of({"url": self.publisher.url + path, **(download or UNVERIFIED)})
        (fetched,) = fetch_schema(schema, self.out, accept_licence=True, show=self.shown.append)
        return fetched

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.glob("*")}


@pytest.fixture
def fetching(publisher: Publisher, tmp_path: Path) -> Fetching:
    return Fetching(publisher, tmp_path / "data" / "shop")


def test_a_file_with_its_checksum_arrives(fetching: Fetching) -> None:
    digest = hashlib.sha256(EVENTS).hexdigest()
    fetched = fetching.run("/events.csv", EVENTS, sha256=digest)
    assert fetching.files == {"events.csv": EVENTS}
    assert (fetched.sha256, fetched.verified_by) == (digest, "sha256")
    assert fetched.files == (fetching.out / "events.csv",)
    assert list(fetching.out.parent.iterdir()) == [fetching.out]


def test_the_licence_is_shown_before_anything_is_asked_for(tmp_path: Path) -> None:
    shown: list[str] = []
    schema = schema_of({"url": "http://127.0.0.1:9/x.csv", **UNVERIFIED})
    with pytest.raises(LicenceNotAccepted, match="shop"):
        fetch_schema(schema, tmp_path / "out", accept_licence=False, show=shown.append)
    assert "Licence: MIT" in shown[0]
    assert "Do as you like." in shown[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_another_file_than_described_is_thrown_away(fetching: Fetching, kind: str) -> None:
    digest = hashlib.new(kind, b"other").hexdigest()
    with pytest.raises(ChecksumMismatch, match=digest):
        fetching.run("/events.csv", EVENTS, **{kind: digest})
    assert not fetching.out.exists()


def test_the_publishers_own_md5_is_asked_for(fetching: Fetching) -> None:
    publisher = fetching.publisher
    digest = hashlib.md5(EVENTS).hexdigest()
    publisher.pages["/sum.md5"] = f"MD5 (events.csv) = {digest}\n".encode()
    fetched = fetching.run("/events.csv", EVENTS, md5_url=publisher.url + "/sum.md5")
    assert fetched.verified_by == "md5 of the publisher"
    publisher.pages["/sum.md5"] = b"0" * 32
    with pytest.raises(ChecksumMismatch):
        fetching.run("/events.csv", EVENTS, md5_url=publisher.url + "/sum.md5")
    publisher.pages["/sum.md5"] = b"<html>moved</html>"
    with pytest.raises(ChecksumMismatch, match="holds no md5"):
        fetching.run("/events.csv", EVENTS, md5_url=publisher.url + "/sum.md5")


def test_without_a_checksum_the_sha256_is_shown(fetching: Fetching) -> None:
    fetched = fetching.run("/events.csv", EVENTS)
    assert fetched.verified_by == "nobody: nobody lists one"
    assert hashlib.sha256(EVENTS).hexdigest() in fetching.shown[1]


def test_a_list_of_checksums_that_is_gone_may_be_done_without(fetching: Fetching) -> None:
    gone = fetching.publisher.url + "/gone.md5"
    assert fetching.run("/events.csv", EVENTS, md5_url=gone, **UNVERIFIED).verified_by.startswith(
        "nobody"
    )
    with pytest.raises(DownloadFailed):
        fetching.run("/events.csv", EVENTS, md5_url=gone)


def test_without_a_network_the_error_says_what_to_give_instead(tmp_path: Path) -> None:
    schema = schema_of({"url": "http://127.0.0.1:9/events.zip", **UNVERIFIED})
    with pytest.raises(DownloadFailed) as failed:
        fetch_schema(schema, tmp_path / "out", accept_licence=True, show=lambda text: None)
    for part in ("127.0.0.1:9", "events.csv", "https://shop.example/data", "--source FOLDER"):
        assert part in str(failed.value)
    assert not (tmp_path / "out").exists()


def test_a_page_that_is_gone_is_a_failed_download(fetching: Fetching) -> None:
    with pytest.raises(DownloadFailed, match=r"gone\.csv: Not Found"):
        fetching.run("/gone.csv", None)


def test_a_connection_that_breaks_off_is_a_failed_download(fetching: Fetching) -> None:
    fetching.publisher.cut_off.add("/events.csv")
    with pytest.raises(DownloadFailed, match="closed after 7 of 14 bytes"):
        fetching.run("/events.csv", EVENTS)
    assert not fetching.out.exists()


def test_an_archive_is_unpacked_without_its_folder(fetching: Fetching) -> None:
    content = archive_of(("shop/events.csv", EVENTS), ("shop/README", b"hi"), ("shop/x/", b""))
    fetching.run("/shop.zip", content, archive="zip", **UNVERIFIED)
    assert fetching.files == {"events.csv": EVENTS, "README": b"hi"}


def test_only_the_members_that_are_wanted_are_unpacked(fetching: Fetching) -> None:
    content = archive_of(("shop/events.csv", EVENTS), ("shop/huge.csv", b"x"))
    fetching.run("/shop.zip", content, archive="zip", members=["events.csv"], **UNVERIFIED)
    assert fetching.files == {"events.csv": EVENTS}


def link_entry() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("events.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("../events.csv", EVENTS)], "leaves its folder"),
        ([("shop/../../events.csv", EVENTS)], "leaves its folder"),
        ([("/etc/events.csv", EVENTS)], "leaves its folder"),
        ([("..\\events.csv", EVENTS)], "leaves its folder"),
        ([("C:\\events.csv", EVENTS)], "leaves its folder"),
        ([(link_entry(), b"/etc/passwd")], "is a link"),
        ([("a/events.csv", EVENTS), ("b/events.csv", b"x")], "two entries"),
        ([("events.csv", b"0" * 10_000_000)], "times its size"),
    ],
)
def test_an_archive_that_means_harm_is_refused(
    fetching: Fetching, files: list[Any], said: str
) -> None:
    with pytest.raises(UnsafeArchive, match=said):
        fetching.run("/shop.zip", archive_of(*files), archive="zip", **UNVERIFIED)
    assert not fetching.out.exists()


def test_a_damaged_archive_is_refused(fetching: Fetching) -> None:
    content = bytearray(archive_of(("events.csv", EVENTS * 100)))
    content[45] ^= 0xFF
    with pytest.raises(UnsafeArchive, match="damaged"):
        fetching.run("/shop.zip", bytes(content), archive="zip", **UNVERIFIED)
    with pytest.raises(UnsafeArchive, match="damaged"):
        fetching.run("/shop.zip", b"<html>sorry</html>", archive="zip", **UNVERIFIED)


def test_a_second_download_that_fails_keeps_the_first_out_too(fetching: Fetching) -> None:
    publisher = fetching.publisher
    publisher.pages["/events.csv"] = EVENTS
    schema = schema_of(
        {"url": publisher.url + "/events.csv", **UNVERIFIED},
        {"url": publisher.url + "/gone.csv", **UNVERIFIED},
    )
    with pytest.raises(DownloadFailed):
        fetch_schema(schema, fetching.out, accept_licence=True, show=lambda text: None)
    assert not fetching.out.exists()


def test_files_of_an_earlier_fetch_are_replaced(fetching: Fetching) -> None:
    fetching.run("/events.csv", b"old")
    fetching.run("/events.csv", EVENTS)
    assert fetching.files == {"events.csv": EVENTS}


def test_progress_is_told_in_bytes(publisher: Publisher, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    publisher.pages["/events.csv"] = EVENTS
    fetch_schema(
        schema_of({"url": publisher.url + "/events.csv", **UNVERIFIED}),
        tmp_path / "out",
        accept_licence=True,
        show=lambda text: None,
        progress=lambda *args: told.append(args),
    )
    assert told == [("events.csv", 14, 14)]


def test_only_a_preset_can_be_fetched_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownPreset):
        fetch("my-shop", tmp_path, accept_licence=True)
    with pytest.raises(PresetNotChosen):
        fetch("movielens", tmp_path, accept_licence=True)


def test_a_schema_without_a_publisher_says_what_to_give_instead(tmp_path: Path) -> None:
    schema = Schema.parse("{name: s, interactions: [{path: events.csv}]}")
    with pytest.raises(DownloadFailed, match=r"events\.csv"):
        fetch_schema(schema, tmp_path / "out", accept_licence=True)

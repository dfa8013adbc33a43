"""The temporary apt configuration: both formats, the release's own entries only."""

from __future__ import annotations

from pathlib import Path

from tests.lab.nbdtester.sources import source_entries


def test_one_line_format(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://commented.example/debian bookworm main\n"
        "deb http://mirror.example/debian bookworm main contrib\n"
        "deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian bookworm-updates main\n"
        "deb http://other.example/apt cloud-sdk-bookworm main\n"
        "deb-src http://mirror.example/debian bookworm main\n"
    )
    assert source_entries(tmp_path, "bookworm") == {
        "sources.list": "deb-src http://mirror.example/debian bookworm main contrib\n"
        "deb-src [signed-by=/k.gpg arch=amd64] http://mirror.example/debian bookworm-updates main\n"
    }


def test_stanza_format(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment inside\nURIs: http://mirror.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n"
        "Types: deb\nURIs: http://other.example/node\nSuites: nodistro\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n"
    )
    assert source_entries(tmp_path, "bookworm") == {
        "stanzas.sources": "Types: deb-src\nURIs: http://mirror.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n"
    }


def test_nothing_to_take(tmp_path: Path) -> None:
    assert source_entries(tmp_path, "bookworm") == {}


def test_another_suite_in_one_line_format(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib\n"
        "deb http://mirror.example/debian bookworm-updates main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
    )
    assert source_entries(tmp_path, "bookworm", "trixie") == {
        "sources.list": "deb-src [signed-by=/k.gpg] http://mirror.example/debian trixie"
        " main contrib\n"
    }


def test_another_suite_in_stanza_format(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: http://mirror.example/debian\n"
        "Suites:\n bookworm\n bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n"
        "Types: deb\nURIs: http://mirror.example/debian-security\n"
        "Suites: bookworm-security\nComponents: main\n"
    )
    assert source_entries(tmp_path, "bookworm", "sid") == {
        "stanzas.sources": "Types: deb-src\nURIs: http://mirror.example/debian\n"
        "Suites: sid\nComponents: main\nSigned-By: /k.gpg\n"
    }

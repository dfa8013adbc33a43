"""The daemon's configuration: file and flags together, and mistakes told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockgate.model.errors import InvalidInput
from blockgate.process.config import load_config
from blockgate.process.flags import build_parser, parse_flags


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold() -> None:
    config = load_config(None, {})
    assert str(config.api_socket()) == "unix:/run/blockgate/api.sock"
    assert config.nbd_addresses() == []
    assert config.engine.io == "auto"


def test_a_flag_replaces_its_field_and_leaves_the_others(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml",
        '[api]\nsocket = "unix:/a"\nsocket_mode = "0600"\n[nbd]\nlisten = ["[::1]"]\n',
    )
    path, flags = parse_flags(["--config", str(file), "--api", "unix:/b", "--shards", "3"])
    config = load_config(path, flags)
    assert config.api.socket == "unix:/b"
    assert config.api.socket_mode == "0600"
    assert config.engine.shards == 3
    assert [str(one) for one in config.nbd_addresses()] == ["[::1]:10809"]


def test_portals_have_the_port_of_iscsi() -> None:
    path, flags = parse_flags(["--iscsi", "192.0.2.1", "--iscsi", "[2001:db8::1]:4000"])
    config = load_config(path, flags)
    portals = [str(one) for one in config.iscsi_addresses()]
    assert portals == ["192.0.2.1:3260", "[2001:db8::1]:4000"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[api\n", "not valid TOML"),
        ('[api]\nsokcet = "x"\n', "no field api.sokcet"),
        ('[api]\nsocket = "127.0.0.1:1"\n', "is a Unix socket"),
        ('[api]\nsocket = "unix:relative"\n', "absolute path"),
        ('[api]\nsocket_mode = "rw"\n', "octal file mode"),
        ('[api.users]\nalice = "root"\n', "'view', 'operate' or 'administer'"),
        ('[nbd]\nlisten = ["host:99999"]\n', "no valid port"),
        ('[nbd]\ncertificate = "x"\n', "belong together"),
        ("[nbd]\nverify_client = true\n", "takes `ca`"),
        ('[iscsi]\nlisten = ["unix:/run/x"]\n', "a portal is a TCP address"),
        ("[engine]\nshards = -1\n", "engine.shards"),
        ("[engine]\nlease_seconds = 0\n", "engine.lease_seconds"),
        ('[engine]\nio = "aio"\n', "engine.io"),
        ("[engine.limits]\nconnections = -5\n", "engine.limits.connections"),
        ('api = "unix:/x"\n', "api"),
        ('[log]\nlevel = "loud"\n', "log.level"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_config(write(tmp_path / "c.toml", text), {})
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read"):
        load_config(tmp_path / "none.toml", {})


def test_a_tls_listener_without_certificate_or_without_anyone_to_use_it() -> None:
    api = load_config(None, {"api": {"tls_listen": "127.0.0.1:0"}}).api
    with pytest.raises(InvalidInput, match="no certificate"):
        api.check_tls()
    files = {"certificate": "c", "key": "k"}
    api = load_config(None, {"api": {"tls_listen": "127.0.0.1:0", **files}}).api
    with pytest.raises(InvalidInput, match="Nobody could use"):
        api.check_tls()


def test_every_flag_is_a_field_of_the_configuration() -> None:
    line = []
    for action in build_parser()._actions:
        if action.dest in ("help", "version", "config"):
            continue
        line.append(action.option_strings[0])
        if action.nargs != 0:
            line.append(str(action.choices[0]) if action.choices else "1")
    _, flags = parse_flags(line)
    given = sum(len(value) if isinstance(value, dict) else 1 for value in flags.values())
    assert given == len([word for word in line if word.startswith("--")])


def test_the_packaged_configuration_is_valid(tmp_path: Path) -> None:
    packaged = Path(__file__).parents[3] / "packaging/blockgated.toml"
    text = packaged.read_text()
    config = load_config(packaged, {})
    assert len(config.nbd_addresses()) == 2
    assert [str(one) for one in config.iscsi_addresses()] == ["0.0.0.0:3260", "[::]:3260"]
    # And with every line that is commented out taken as it stands.
    lines = [
        line[1:] if line.startswith("#") and " = " in line else line for line in text.split("\n")
    ]
    whole = load_config(write(tmp_path / "full.toml", "\n".join(lines)), {})
    assert whole.api.users == {"alice": "operate"}
    defaults = load_config(None, {})
    assert whole.engine == defaults.engine
    assert whole.log == defaults.log
    assert whole.drain_seconds == defaults.drain_seconds
    assert whole.state_dir == defaults.state_dir

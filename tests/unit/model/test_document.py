"""The declarative document: both notations, and errors that name their place."""

from __future__ import annotations

import json

import pytest
import yaml

from blockgate.model.document import parse_document, render_document
from blockgate.model.errors import InvalidInput
from blockgate.model.notation import read_notation
from tests.unit.model.test_config import DISK, MAIN, config, volume

TEXT = """
pools:
  - {name: main, directory: /srv/main}
  - {name: disk, device: /dev/sdb}
volumes:
  - name: main/web
    size: 1.5GiB
    cache: write-through
  - name: main/old
    adopt: /srv/main/old.raw
exports:
  - volume: main/web
    allow: [192.0.2.0/24]
  - {volume: main/old, name: old, read_only: true, tls: true}
tls_psk:
  - {user: host, key: "00112233445566778899aabbccddeeff"}
"""


def test_yaml_and_json_say_the_same() -> None:
    document = parse_document(TEXT)
    assert parse_document(json.dumps(yaml.safe_load(TEXT))) == document
    assert parse_document(yaml.safe_load(TEXT)) == document
    assert document.pools == (MAIN, DISK)
    assert document.volumes[0].size == 1610612736
    assert document.volumes[0].io is None, "what is not said is left to what there is"
    assert document.exports[0].name == "main/web"
    assert document.prune is False


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("volumes: [{name: main/a, size: 10XB}]", "volumes[0].size"),
        ("volumes: [{name: main/a}, {name: a}]", "volumes[1].name"),
        ("volumes: [{name: main/a, colour: red}]", "volumes[0]: 'colour'"),
        ("volumes: [{size: 1G}]", "volumes[0]: 'name' is missing"),
        ("volumes: [{name: m/a}, {name: m/a}]", "volumes[1]: m/a stands in volumes[0]"),
        ("volumes: {name: m/a}", "volumes: this must be a list"),
        ("volumes: [m/a]", "volumes[0]: this must be a mapping"),
        ("volumes: [{name: m/a, prealloc: 'yes'}]", "volumes[0].prealloc"),
        ("pools: [{name: p}]", "pools[0]: a pool is either"),
        ("pools: [{name: p, directory: x}]", "pools[0].directory"),
        ("exports: [{volume: m/a, allow: [10.0.0.1/8]}]", "exports[0].allow"),
        ("exports: [{volume: m/a, name: 'a b'}]", "exports[0].name"),
        ("tls_psk: [{user: u, key: 12}]", "tls_psk[0].key"),
        ("colour: red", "the document: 'colour'"),
        ("prune: maybe", "prune"),
        ("[1, 2]", "the document"),
        ("a: [", "not valid YAML or JSON"),
        ("{", "not valid YAML or JSON"),
    ],
)
def test_an_error_names_its_place(text: str, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document(text)
    assert place in caught.value.message


def test_no_code_is_run() -> None:
    with pytest.raises(InvalidInput):
        parse_document("pools: !!python/object/apply:os.system ['true']")


def test_a_key_is_not_shown() -> None:
    assert "0011" not in repr(parse_document(TEXT).psk)


def test_what_is_rendered_is_read_again() -> None:
    volumes = [volume("a", size=1610612736), volume("b", size=4096 + 512)]
    document = render_document(config([MAIN, DISK], volumes, []), {"u": "file:/k"})
    again = parse_document(yaml.safe_dump(document))
    assert again.pools == (DISK, MAIN)
    assert {v.ref: (v.uuid, v.size) for v in again.volumes} == {
        v.ref: (v.uuid, v.size) for v in volumes
    }
    assert "tls_psk" not in render_document(config([], [], []))


BOMB = "a: &a [x, x]\n" + "".join(
    f"{after}: &{after} [*{before}, *{before}, *{before}, *{before}]\n"
    for before, after in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "anchor or alias"),
        ("volumes: &v []", "anchor or alias"),
        ("volumes: *v", "anchor or alias"),
        ("[" * 200_000, "nested"),
        ("- " * 200_000, "nested"),
        ("{a: " * 100_000, "nested"),
        ("? " * 100_000, "nested"),
        ('{"a": ' * 100_000, "nested"),
        ("a: " + "9" * 5000, "thousands of digits"),
        ("prune: true\nprune: false\n", "key twice"),
        ('{"prune": true, "prune": false}', "key twice"),
    ],
    ids=["bomb", "anchor", "alias", "[", "-", "{a:", "?", "json", "digits", "keys", "json keys"],
)
def test_text_costs_no_more_than_its_length(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_document(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-27",
        "2026-11-27T01:02:03Z",
        "2026-99-99",
        ".nan",
        "-.inf",
        "1.0e+999",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "!!int hunter2",
        "!!bool hunter2",
        "!hunter2",
        "! hunter2",
        "=",
        "{<<: {}}",
        "{2026-11-27: 1}",
        "'hunter2",
        "%hunter2",
        "[hunter2",
    ],
)
def test_yaml_gives_only_what_json_has_and_errors_name_the_line(value: str) -> None:
    """And they do not quote it: it may be a secret."""
    with pytest.raises(InvalidInput, match=r"[Ll]ine [23]") as caught:
        read_notation(f"chap:\n- secret: {value}\n")
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_json_number_is_finite(number: str) -> None:
    """RFC 8259 6. What is none is text, as it is in YAML, and its place is named."""
    with pytest.raises(InvalidInput, match=r"volumes\[0\].size: '.*' is not a size"):
        parse_document(f'{{"volumes": [{{"name": "local/a", "size": {number}}}]}}')


def test_quotes_and_str_make_text() -> None:
    assert read_notation("- '2026-11-27'\n- !!str 2026-11-27\n") == ["2026-11-27"] * 2


def test_text_with_quotes_may_hold_any_character() -> None:
    document = parse_document("pools: [{name: p, directory: '/srv/&a *b'}]")
    assert document.pools[0].path == "/srv/&a *b"


LONG = "x" * 50_000
MANY = [[LONG] * 1000] * 1000


@pytest.mark.parametrize(
    "values",
    [
        {LONG: 1},
        {"prune": MANY},
        {"prune": {LONG: MANY}},
        {"volumes": [{"name": LONG}]},
        {"volumes": [{"name": MANY}]},
        {"volumes": [{"name": "p/v", "size": LONG}]},
        {"volumes": [{"name": "p/v", "size": MANY}]},
        {"volumes": [{"name": "p/v", "size": 1 << 100_000}]},
        {"volumes": [{"name": "p/v", "block_size": MANY}]},
        {"volumes": [{"name": "p/v", "cache": MANY}]},
        {"volumes": [{"name": "p/v", "io": LONG}]},
        {"volumes": [{"name": "p/v", "uuid": LONG}]},
        {"volumes": [{"name": "p/v", "adopt": LONG}]},
        {"volumes": [{"name": "p/v", "adopt": "/" + LONG}]},
        {"volumes": [{"name": "p/v", "adopt": "/../" + "x" * 4000}]},
        {"exports": [{"volume": "p/v", "allow": LONG}]},
        {"exports": [{"volume": "p/v", "allow": [LONG]}]},
        {"exports": [{"volume": "p/v", "allow": [MANY]}]},
        {"exports": [{"volume": "p/v", "allow": [LONG + "%0"]}]},
        {"exports": [{"volume": "p/v", "name": "a//" + "b" * 290}]},
        {"tls_psk": [{"user": MANY, "key": "00"}]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_message_shows_little_of_a_value(values: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_document(values)
    assert len(caught.value.message) < 300
    assert len(caught.value.hint) < 300

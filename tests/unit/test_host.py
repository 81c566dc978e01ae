"""What `lifl run --host` takes, and what it says."""

from __future__ import annotations

import pytest

from lifl.errors import InvalidJob
from lifl.placement.host import check_host, warning_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_an_address_of_this_machine(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("0.0.0.0", "nobody can call this one: name an IPv4 address"),
        ("::", "nobody can call this one: name an IPv4 address"),
        ("203.0.113.77", "Cannot assign requested address: name an IPv4"),  # RFC 5737
        ("224.0.0.1", "gateways cannot listen there"),
        ("::1", "gateways cannot listen there"),
        ("hospital.example", "this is no address"),
        ("", "this is no address"),
    ],
)
def test_what_clients_could_not_call(host: str, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=f"--host {host}: .*{sentence}"):
        check_host(host)


def test_without_keys_the_network_is_warned_of() -> None:
    assert warning_of("127.0.0.2", is_insecure=True) is None
    assert warning_of("192.0.2.1", is_insecure=False) is None
    said = warning_of("192.0.2.1", is_insecure=True)
    assert said is not None
    assert said.startswith("insecure: true with --host 192.0.2.1: whoever reaches that address can")

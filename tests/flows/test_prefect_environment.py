"""What is set before Prefect is imported: this machine is asked without a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.request import getproxies, proxy_bypass

import pytest

from flows.prefect_environment import NO_PROXY, without_proxy


@pytest.mark.parametrize(
    ("given", "direct"),
    [
        ({}, "localhost,127.0.0.1"),
        ({"NO_PROXY": ".corp, 127.0.0.1"}, ".corp,127.0.0.1,localhost"),
        ({"no_proxy": "here", "NO_PROXY": "there"}, "here,localhost,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_this_machine_joins_the_hosts_that_are_asked_directly(
    given: dict[str, str], direct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NO_PROXY:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert without_proxy() == direct
    for name in NO_PROXY:
        monkeypatch.setenv(name, direct)
    monkeypatch.setenv("http_proxy", "http://proxy.corp:3128")
    assert getproxies()["http"] and proxy_bypass("127.0.0.1:4200") and proxy_bypass("localhost")
    assert without_proxy() == direct, "a second time nothing is added"


def test_a_flow_sets_it_for_itself_and_its_children() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NO_PROXY}
    script = "import os, flows; print(os.environ['no_proxy'], os.environ['NO_PROXY'])"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["localhost,127.0.0.1"] * 2

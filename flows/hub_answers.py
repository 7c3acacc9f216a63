"""Whether the run's Hub answers, asked before the work that would need it in the end."""

from __future__ import annotations

import httpx2

from flows.hub import is_offline
from flows.preflight import Problem
from flows.settings import LifecycleConfig
from moa.hub.client import TRUST, is_untrusted
from moa.hub.loopback import is_loopback

ON_THE_HUB = ("publish", "gate", "rollback", "lifecycle")  # stages that end in failure where it does not answer
HUB_SECONDS = 5.0  # for the Hub to answer


def silent_hub(config: LifecycleConfig, stage: str) -> list[Problem]:
    """The run's Hub, where the stage needs it and it does not answer within seconds.

    Asked where a person waits. A run that nobody watches is not ended for a moment's trouble: its tasks try for minutes
    (flows/retries.py).
    """
    endpoint, here = config.publish.endpoint, is_loopback(config.publish.endpoint)
    if not _needs_hub(config, stage) or endpoint == "local" or (is_offline() and not here):
        return []
    try:
        trusted = httpx2.create_ssl_context()
    except OSError as error:
        return [
            Problem(f"SSL_CERT_FILE or SSL_CERT_DIR holds no certificates ({error})", "name a PEM file, or unset it")
        ]
    try:
        httpx2.head(endpoint, timeout=HUB_SECONDS, trust_env=not here, verify=trusted)
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        what = f"publish.endpoint: {endpoint} does not answer ({error or type(error).__name__})"
        start = "start it (python -m moa.hub.server)" if here else "see to the network"
        if is_untrusted(error):
            what, start = f"publish.endpoint: {endpoint} is not trusted ({error})", TRUST
        return [Problem(what, f"{start}, or --set publish.endpoint=local: a Hub in runs/hub")]
    return []


def _needs_hub(config: LifecycleConfig, stage: str) -> bool:
    """Whether a stage asks the Hub for something that this machine does not have: what is promoted there, the first
    time it matters to a run."""
    if stage == "train":
        return config.train_from == "promoted" and not (config.run / "config.json").is_file()
    if stage in ("evaluate", "ablate"):
        return not (config.run / "champion.json").is_file()
    return stage in ON_THE_HUB

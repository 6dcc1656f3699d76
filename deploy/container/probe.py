#!/opt/januskv/bin/python
"""Is the node in this container alive (livez), or ready to serve (readyz)?

    januskv-probe readyz [--config FILE] [--timeout SECONDS]
    januskv-probe livez --any-answer

An orchestrator's own HTTP probe has no client certificate, and a node that asks for one answers
nobody else. This one reads the same configuration as the node (file and environment), dials the
address that the node listens on, shows the node's own certificate, and is quick to start: nothing
is imported but the standard library and the configuration. The certificate of the other side is
not checked, because it asks only its own container and tells nothing.

Before a node is killed for not being alive, use --any-answer: while a node takes in a snapshot of
its data it cannot read, so /livez answers 503, and a restart would only begin that anew.

Exit codes: 0 yes, 1 no or no answer, 2 the configuration or the call is wrong.
"""

from __future__ import annotations

import argparse
import http.client
import os
import ssl
import sys

from kv.config.reading import load_config
from kv.config.sections import WILDCARDS, Config
from storage.errors import InvalidOptionError

DEFAULT_CONFIG = "/etc/januskv/januskv.toml"
EXIT_NO = 1
EXIT_WRONG = 2
ANSWER_MAX_BYTES = 4096


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="januskv-probe", description="Ask the node beside it.")
    parser.add_argument("what", choices=("livez", "readyz"))
    parser.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("--any-answer", action="store_true", help="whatever it is, it is a yes")
    parser.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS")
    args = parser.parse_args(arguments)
    try:
        status, text = ask(load_config(args.config, os.environ), args.what, args.timeout)
    except InvalidOptionError as error:
        return tell(str(error), EXIT_WRONG)
    except (OSError, http.client.HTTPException) as error:
        return tell(f"no answer: {error or type(error).__name__}", EXIT_NO)
    return 0 if status == 200 or args.any_answer else tell(f"{status} {text}", EXIT_NO)


def ask(config: Config, what: str, timeout_s: float) -> tuple[int, str]:
    """Raises InvalidOptionError, OSError or HTTPException."""
    host, port = config.node.listen
    host = WILDCARDS.get(host, host)
    connection: http.client.HTTPConnection
    if config.tls.client_cert:
        connection = http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=own_certificate(config)
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        # "localhost" is a name that every node allows.
        connection.request("GET", f"/{what}", headers={"Host": "localhost"})
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_MAX_BYTES).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def own_certificate(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        context.load_cert_chain(config.tls.client_cert, config.tls.client_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidOptionError(
            f"tls.client_cert or tls.client_key cannot be used: {error}"
        ) from error
    return context


def tell(text: str, code: int) -> int:
    sys.stderr.write(f"januskv-probe: {text}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())

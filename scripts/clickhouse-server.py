#!/usr/bin/env python3
"""A real ClickHouse server out of the chdb-core wheel.

    python clickhouse-server.py DIR HTTP_PORT TCP_PORT [USER PASSWORD]

The wheel carries the whole engine; its low-level module, told to START LISTEN, serves HTTP and the
native protocol like a clickhouse-server of the same version. DIR keeps configuration and data, so a
second start on it finds what the first one wrote, also after SIGKILL. SIGTERM and SIGINT end it.
CLICKHOUSE_PROFILE in the environment is XML with settings of everybody.
Run it with the Python of the virtual environment that `scripts/setup.sh` makes.
"""

import importlib.util
import os
import sys
from xml.sax.saxutils import escape

# Same as the loader flag of <dlfcn.h>; the engine resolves symbols of its helper libraries this way.
RTLD_DEEPBIND = 0x8

CONFIG = """<clickhouse>
  <http_port>{http}</http_port>
  <tcp_port>{tcp}</tcp_port>
  <listen_host>127.0.0.1</listen_host>
  <path>{dir}/data/</path>
  <users_config>{dir}/users.xml</users_config>
  <error/>
  <mark_cache_size>67108864</mark_cache_size>
  <max_server_memory_usage>4000000000</max_server_memory_usage>
</clickhouse>
"""

USERS = """<clickhouse>
  <profiles><default>{profile}</default></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>{named}
  </users>
</clickhouse>
"""


# The engine's own query runs as `default`, which therefore stays without a password; who wants to
# see credentials refused or accepted names a second user.
NAMED_USER = """
    <{user}>
      <password>{password}</password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </{user}>"""


def load_engine():
    """Import the engine alone: `import chdb` would pull in pandas and pyarrow."""
    spec = importlib.util.find_spec("chdb")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("chdb-core is not installed for this Python: run scripts/setup.sh")
    sys.path.insert(0, list(spec.submodule_search_locations)[0])
    sys.setdlopenflags(sys.getdlopenflags() | RTLD_DEEPBIND)
    import _chdb

    return _chdb


def main():
    if len(sys.argv) not in (4, 6):
        sys.exit(__doc__)
    directory, http, tcp = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    named = ""
    if len(sys.argv) == 6:
        named = NAMED_USER.format(user=sys.argv[4], password=escape(sys.argv[5]))
    os.makedirs(directory, exist_ok=True)
    os.chdir(directory)
    with open("config.xml", "w", encoding="utf-8") as f:
        f.write(CONFIG.format(http=http, tcp=tcp, dir=escape(directory)))
    with open("users.xml", "w", encoding="utf-8") as f:
        f.write(USERS.format(named=named, profile=os.environ.get("CLICKHOUSE_PROFILE", "")))
    # A read of a FIFO that nobody writes to keeps the one query, and with it the server, alive.
    if not os.path.exists("stop.fifo"):
        os.mkfifo("stop.fifo")
    engine = load_engine()
    engine.set_signal_handlers_enabled(0)
    engine.query(
        "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
        f"SELECT count() FROM file('{directory}/stop.fifo', 'LineAsString');",
        "TSV",
        path=f"{directory}/data",
    )


if __name__ == "__main__":
    main()

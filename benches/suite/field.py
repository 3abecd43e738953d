"""Who is measured: mock upstream, proxies and Althing; each pinned, on a port that was free, and ended with this process."""

import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

GATEWAY_CORE, LOAD_CORE = "0", "1"
ADMIN = "al-admin-for-benchmarks"
# Model names that the mock understands: it answers with so many bytes.
MODELS = {size: f"mock-s{size}" for size in (1024, 10240, 102400)}
CHAT_MODEL = "gpt-4o-mini"
TRANSLATED_MODEL = "claude-mock"
# Long streams, to see what an open one holds: a chunk a second.
SLOW_MODEL = "mock-n100-i1000"


class Failure(Exception):
    """The benchmark cannot go on; its text says why."""


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def _die_with_parent():
    # A benchmark that is killed leaves nothing running.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Field:
    """Processes in a folder of their own."""

    def __init__(self, work, tools, althing):
        self.work, self.tools, self.althing = work, tools, althing
        self.running = []

    def start(self, name, core, argv, env=None):
        argv = ["taskset", "-c", core, *map(str, argv)]
        log = open(f"{self.work}/{name}.log", "ab")
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, env={**os.environ, **(env or {})}, preexec_fn=_die_with_parent
        )
        log.close()
        process.name = name
        self.running.append(process)
        return process

    def stop(self, process, patience=20):
        if process in self.running:
            self.running.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_all(self):
        for process in reversed(list(self.running)):
            self.stop(process, 5)

    def log_of(self, name):
        try:
            with open(f"{self.work}/{name}.log", errors="replace") as it:
                return it.read()[-2000:]
        except OSError:
            return ""

    def wait(self, process, port, path=None, seconds=30):
        """Until it accepts connections, or answers `path` with 200."""
        until = time.monotonic() + seconds
        while not answers(port, path):
            if process.poll() is not None:
                raise Failure(f"{process.name} ended with {process.returncode}:\n{self.log_of(process.name)}")
            if until < time.monotonic():
                raise Failure(f"{process.name} does not answer within {seconds} s:\n{self.log_of(process.name)}")
            time.sleep(0.001)

    # Who is in the field. Each gives its process and port.

    def mock(self):
        port = free_port()
        process = self.start("mock", LOAD_CORE, [f"{self.tools}/mock"], {"MOCK_ADDR": f"127.0.0.1:{port}"})
        self.wait(process, port, "/health")
        return process, port

    def bare(self, upstream):
        port = free_port()
        argv = [f"{self.tools}/rawproxy", f"127.0.0.1:{port}", f"127.0.0.1:{upstream}", "legacy-ws", "1"]
        process = self.start("bare", GATEWAY_CORE, argv)
        self.wait(process, port, "/health")
        return process, port

    def nginx(self, upstream, static):
        if not shutil.which("nginx"):
            return None
        port, work = free_port(), self.work
        # Started by root, its workers would run as nobody, who cannot read this folder.
        user = "user root; " if os.geteuid() == 0 else ""
        folders = " ".join(f"{it}_temp_path {work}/nginx-{it};" for it in ("proxy", "fastcgi", "uwsgi", "scgi"))
        with open(f"{work}/nginx.conf", "w") as it:
            it.write(f"""
{user}daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; worker_processes 1; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {work}/nginx-body; {folders}
  client_body_buffer_size 256k; client_max_body_size 8m; keepalive_requests 1000000000; default_type application/json;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location = /static/tools.json {{ alias {static}; }}
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
""")
        process = self.start("nginx", GATEWAY_CORE, ["nginx", "-c", f"{work}/nginx.conf"])
        self.wait(process, port, "/health")
        return process, port

    def haproxy(self, upstream):
        if not shutil.which("haproxy"):
            return None
        port = free_port()
        with open(f"{self.work}/haproxy.cfg", "w") as it:
            it.write(f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
listen bench
  bind 127.0.0.1:{port}
  server mock 127.0.0.1:{upstream}
""")
        process = self.start("haproxy", GATEWAY_CORE, ["haproxy", "-db", "-f", f"{self.work}/haproxy.cfg"])
        self.wait(process, port, "/health")
        return process, port


class Althing:
    """A node with its data folder."""

    def __init__(self, field, name, upstream):
        self.field, self.name, self.upstream = field, name, upstream
        self.port = free_port()
        self.data = f"{field.work}/{name}"
        self.process = None
        with open(f"{field.work}/{name}.json", "w") as it:
            json.dump(self.settings(), it)

    def settings(self):
        return {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"key": ADMIN},
            "limits": {"requests_per_principal": 10000},
            "records": {"max_disk": "4GiB"},
        }

    def policy(self, keys):
        """A policy file with these keys, (number, with tools) each; the rest that a key can have is on: budget, rate, providers."""
        upstream = f"http://127.0.0.1:{self.upstream}"
        secret = [{"name": "k", "value": "sk-benchmark-upstream"}]
        price = {"input_usd_per_million": "0.15", "output_usd_per_million": "0.6"}
        names = [CHAT_MODEL, SLOW_MODEL, *MODELS.values()]
        return {
            "providers": [
                {"name": "mock", "dialect": "openai", "base_url": f"{upstream}/v1", "keys": secret,
                 "prices": {it: price for it in names}},
                {"name": "messages", "dialect": "anthropic", "base_url": f"{upstream}/v1", "keys": secret,
                 "models": {TRANSLATED_MODEL: TRANSLATED_MODEL}, "prices": {TRANSLATED_MODEL: price}},
            ],
            "mcp_servers": [
                {"name": "mock", "transport": "http", "url": f"{upstream}/mcp"},
                {"name": "big", "transport": "http", "url": f"{upstream}/mcp500"},
            ],
            "tool_groups": [{"name": "big", "tools": ["big/*"]}],
            "virtual_keys": [
                {"name": key_name(number, with_tools), "value": key_value(number, with_tools),
                 "providers": [{"name": "mock", "models": ["*"]}, {"name": "messages", "models": ["*"]}],
                 **({"tools": ["mock/*"], "tool_groups": ["big"]} if with_tools else {}),
                 "budget": {"limit_usd": "1000000", "period": "month"},
                 "rate": {"requests": 1000000000, "tokens": 1000000000000}}
                for number, with_tools in keys
            ],
        }

    def start(self):
        """Starts it, and gives the milliseconds until it was ready."""
        begun = time.monotonic()
        argv = [self.field.althing, "serve", "--config", f"{self.field.work}/{self.name}.json", "--data", self.data]
        self.process = self.field.start(self.name, GATEWAY_CORE, argv)
        self.field.wait(self.process, self.port, "/readyz", 120)
        return (time.monotonic() - begun) * 1e3

    def stop(self):
        self.field.stop(self.process, 60)

    def apply(self, keys=0, tool_keys=0, at_once=2000):
        """Brings so many keys without tools and with tools into the law, as many at a time as one command holds."""
        keys = [(number, False) for number in range(keys)] + [(number, True) for number in range(tool_keys)]
        for first in range(0, len(keys), at_once):
            body = json.dumps(self.policy(keys[first : first + at_once]))
            headers = {"authorization": f"Bearer {ADMIN}", "content-type": "application/yaml"}
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            connection.request("POST", "/api/apply", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Failure(f"the policy was not taken: {answer.status} {text[:500]!r}")

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()

    def in_flight(self):
        return int(re.search(r"^althing_requests_in_flight (\d+)", self.metrics(), re.M)[1])

    def wait_for_tools(self, seconds=20):
        until = time.monotonic() + seconds
        while len(re.findall(r'^althing_mcp_server_ready\{.*\} 1$', self.metrics(), re.M)) < 2:
            if until < time.monotonic():
                raise Failure(f"its MCP servers are not ready:\n{self.field.log_of(self.name)}")
            time.sleep(0.05)


def key_name(number, with_tools):
    return f"{'tool-key' if with_tools else 'key'}-{number:06}"


def key_value(number, with_tools=False):
    return f"vk-for-benchmarks-{'tools-' if with_tools else ''}{number:06}"


def answers(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as it:
            if path is None:
                return True
            it.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            return it.recv(64).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False

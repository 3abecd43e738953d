"""`./dev bench`: the whole gateway beside a bare proxy, nginx and haproxy, against its targets. See benches/README.md."""

import argparse
import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from field import CHAT_MODEL, LOAD_CORE, MODELS, SLOW_MODEL, TRANSLATED_MODEL, Althing, Failure, Field, key_value
from measure import buckets, load, memory, post, quantile, tool_names
from report import report

CONNECTIONS = 64
STREAMS = 200
# Keys of the chat loads have no tools: what a chat costs into which tools are put is another question. The tool loads use a
# few keys of their own, as many as people who work at once: each key has a list of its own, and a node keeps those in use.
KEYS = 10_000
TOOL_KEYS = 64
MANY_KEYS = 100_000
OPEN_STREAMS = 1_000
OVERHEAD_RATE, LATENCY_RATE = 5_000, 1_000
# The thread that moves records into the index: outside the target of a request, printed beside.
MOVER = "records"
CHAT = "/v1/chat/completions"


class Bench:
    def __init__(self, field, rounds, seconds, log):
        self.field, self.rounds, self.seconds, self.log = field, rounds, seconds, log
        # (case, who) -> what each round measured.
        self.rows = collections.defaultdict(list)
        self.facts = {"rounds": rounds, "seconds": seconds, "keys": KEYS}

    def run(self):
        field = self.field
        self.facts["binary"] = stripped_size(field)
        _, self.mock = field.mock()
        self.rest_and_streams()
        self.many_keys()
        self.start_field()
        self.look()
        for number in range(self.rounds):
            self.log(f"round {number + 1} of {self.rounds}")
            self.calls()
            self.streams()
            self.tools()
            self.latency()
        self.facts["loaded"] = memory(self.node.process.pid)
        self.node.stop()
        self.facts["ready_keys"] = self.node.start()
        self.node.stop()

    # Nodes that are measured by themselves: before anything else runs.

    def rest_and_streams(self):
        self.log("start to ready, memory at rest")
        node = Althing(self.field, "small", self.mock)
        node.start()
        node.apply(keys=1, tool_keys=1)
        node.wait_for_tools()
        node.stop()
        self.facts["ready"] = []
        for _ in range(5):
            self.facts["ready"].append(node.start())
            time.sleep(0.3)
            node.stop()
        node.start()
        node.wait_for_tools()
        time.sleep(2)
        self.facts["idle"] = memory(node.process.pid)
        self.log(f"memory of {OPEN_STREAMS} open streams")
        process = self.field.start("streams", LOAD_CORE, [
            f"{self.field.tools}/load", "--url", f"http://127.0.0.1:{node.port}{CHAT}", "--mode", "sse",
            "--streams", OPEN_STREAMS, "--secs", 60, "--warm", 0, "--model", SLOW_MODEL, "--keys", self.keys_file(1, with_tools=False),
        ])
        until = time.monotonic() + 30
        while node.in_flight() < OPEN_STREAMS:
            if until < time.monotonic() or process.poll() is not None:
                raise Failure(f"{node.in_flight()} of {OPEN_STREAMS} streams are open: {self.field.log_of(process.name)}")
            time.sleep(0.1)
        time.sleep(2)
        held = memory(node.process.pid)["pss"] - self.facts["idle"]["pss"]
        self.facts["stream_kib"] = held / OPEN_STREAMS
        self.field.stop(process)
        node.stop()

    def many_keys(self):
        self.log(f"memory with {MANY_KEYS} keys")
        node = Althing(self.field, "many", self.mock)
        node.start()
        begun = time.monotonic()
        node.apply(tool_keys=MANY_KEYS, at_once=5000)
        self.facts["many_applied"] = time.monotonic() - begun
        self.facts["many_written"] = memory(node.process.pid)
        node.stop()
        self.facts["many_ready"] = node.start()
        time.sleep(2)
        self.facts["many"] = memory(node.process.pid)
        node.stop()
        shutil.rmtree(node.data, ignore_errors=True)

    # The field.

    def keys_file(self, count, with_tools):
        file = f"{self.field.work}/{'tool-keys' if with_tools else 'keys'}-{count}"
        with open(file, "w") as it:
            it.writelines(key_value(number, with_tools) + "\n" for number in range(count))
        return file

    def start_field(self):
        self.log(f"starting all, {KEYS} keys, {TOOL_KEYS} with tools")
        field = self.field
        self.keys = self.keys_file(KEYS, with_tools=False)
        self.few_keys = self.keys_file(CONNECTIONS, with_tools=False)
        self.tool_keys = self.keys_file(TOOL_KEYS, with_tools=True)
        self.node = Althing(field, "althing", self.mock)
        self.node.start()
        self.node.apply(KEYS, TOOL_KEYS)
        self.node.wait_for_tools()
        tools, names = tool_names(self.node.port, "/mcp/big", key_value(0, with_tools=True))
        if len(set(names)) < 500:
            raise Failure(f"tools/list of 500 tools names {len(set(names))}: {tools[:300]!r}")
        with open(f"{field.work}/tools.json", "wb") as it:
            it.write(tools)
        self.who = {"direct": (None, self.mock), "bare": field.bare(self.mock), "althing": (self.node.process, self.node.port)}
        self.who["nginx"] = field.nginx(self.mock, f"{field.work}/tools.json")
        self.who["haproxy"] = field.haproxy(self.mock)
        self.who = {name: it for name, it in self.who.items() if it}

    def look(self):
        """What is compared answers the same, or nothing is compared. Then every key is used once, so that it holds its lease."""
        for name, (_, port) in self.who.items():
            for size, model in MODELS.items():
                body = {"model": model, "max_tokens": 256, "messages": [{"role": "user", "content": "x" * size}]}
                _, text = post(port, CHAT, body, self.authorization(1))
                if not size * 0.9 < len(text) < size * 1.1 + 300 or b'"usage"' not in text:
                    raise Failure(f"{name} answers {size} bytes with {len(text)}: {text[:300]!r}")
        body = {"model": TRANSLATED_MODEL, "max_tokens": 256, "messages": [{"role": "user", "content": "Hello"}]}
        _, text = post(self.node.port, CHAT, body, self.authorization(1))
        if b'"chat.completion"' not in text or b"brown fox" not in text:
            raise Failure(f"the translated answer is {text[:500]!r}")
        load(self.field, None, f"http://127.0.0.1:{self.node.port}{CHAT}", "--secs", 3, "--warm", 0, "--model", MODELS[1024], "--keys", self.keys)

    def authorization(self, number):
        return {"authorization": f"Bearer {key_value(number)}"}

    # A round: each case by each contender in turn.

    def one(self, case, who, path, *arguments, keys=None, secs=None, warm=0.4):
        process, port = self.who[who]
        apart = MOVER if who == "althing" else None
        row = load(
            self.field, process and process.pid, f"http://127.0.0.1:{port}{path}", "--keys", keys or self.keys,
            "--secs", secs or self.seconds, "--warm", warm, *arguments, apart=apart,
        )
        self.rows[case, who].append(row)
        return row

    def each(self, names, *arguments, case, path, **options):
        for who in names:
            if who in self.who:
                self.one(case, who, path, *arguments, **options)

    def calls(self):
        for size, model in MODELS.items():
            chat = ("--conns", CONNECTIONS, "--body-size", size, "--model", model)
            self.each(("bare", "althing", "nginx", "haproxy"), *chat, case=f"chat {size}", path=CHAT)
            # What the number of keys costs: the same with as many keys in use as there are connections.
            self.one(f"chat {size}, {CONNECTIONS} keys", "althing", CHAT, *chat, keys=self.few_keys)
        chat = ("--conns", CONNECTIONS, "--body-size", 1024, "--model", TRANSLATED_MODEL)
        self.one("translated", "althing", CHAT, *chat)

    def streams(self):
        chat = ("--mode", "sse", "--streams", STREAMS, "--body-size", 1024, "--model", CHAT_MODEL)
        # Streams begin spread over the first second.
        self.each(("direct", "nginx", "bare", "althing"), *chat, case="stream", path=CHAT, warm=1.2, secs=self.seconds + 1)

    def tools(self):
        call = ("--mode", "mcp", "--conns", CONNECTIONS, "--tool")
        self.one("tools/call", "bare", "/mcp", *call, "echo", keys=self.tool_keys)
        self.one("tools/call", "althing", "/mcp", *call, "mock-echo", keys=self.tool_keys)
        self.one("tools/list", "nginx", "/static/tools.json", "--method", "GET", "--conns", CONNECTIONS, keys=self.tool_keys)
        self.one("tools/list", "althing", "/mcp/big", "--mode", "mcplist", "--conns", CONNECTIONS, keys=self.tool_keys)

    def latency(self):
        """Open loop: requests come when they are due, whatever became of those before."""
        chat = ("--max-conns", CONNECTIONS, "--body-size", 1024, "--model", MODELS[1024], "--rate")
        self.each(("direct", "bare", "nginx", "althing"), *chat, LATENCY_RATE, case="latency", path=CHAT)
        before = buckets(self.node.metrics(), "althing_overhead_seconds")
        self.one("open loop", "althing", CHAT, *chat, OVERHEAD_RATE)
        after = buckets(self.node.metrics(), "althing_overhead_seconds")
        row = self.rows["open loop", "althing"][-1]
        row["overhead_p50"], row["overhead_p99"] = (quantile(before, after, q) * 1e6 for q in (0.5, 0.99))
        if row["rps"] < OVERHEAD_RATE * 0.9:
            raise Failure(f"of {OVERHEAD_RATE} requests a second only {row['rps']} were answered")


def stripped_size(field):
    out = f"{field.work}/stripped"
    subprocess.run(["strip", "-o", out, field.althing], check=True)
    size = os.path.getsize(out)
    os.remove(out)
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--tools", required=True, help="the folder of mock, load and rawproxy")
    parser.add_argument("--althing", required=True, help="the gateway, built for release")
    parser.add_argument("--json", help="also writes everything that was measured into this file")
    arguments = parser.parse_args()
    rounds, seconds = (2, 1) if arguments.quick else (5, 2)
    work = tempfile.mkdtemp(prefix="althing-bench-")
    field = Field(work, os.path.abspath(arguments.tools), os.path.abspath(arguments.althing))
    for it in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(it, lambda *_: sys.exit("ended by a signal"))
    begun = time.monotonic()

    def log(text):
        print(f"[{time.monotonic() - begun:5.0f} s] {text}", file=sys.stderr, flush=True)

    bench = Bench(field, rounds, seconds, log)
    try:
        bench.run()
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    finally:
        field.stop_all()
        shutil.rmtree(work, ignore_errors=True)
    bench.facts["took"] = time.monotonic() - begun
    report(bench.rows, bench.facts, arguments.json)


main()

"""One measurement at a time, and what is wrong with it."""

import http.client
import json
import re
import statistics
import subprocess

from field import LOAD_CORE, Failure


def load(field, pid, url, *arguments, apart=None):
    """Runs the load generator against `url`. Anything but the answers that were asked for is a failure."""
    argv = ["taskset", "-c", LOAD_CORE, f"{field.tools}/load", "--url", url]
    if pid:
        argv += ["--pid", pid]
    if apart:
        argv += ["--apart", apart]
    argv = [str(it) for it in [*argv, *arguments]]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(argv)}\nended with {done.returncode}: {done.stderr[-1500:]}")
    result = json.loads(done.stdout)
    if result["bad"] or result["err"] or not result["ok"]:
        kept = {it: result[it] for it in ("ok", "bad", "err", "unfinished")}
        raise Failure(f"{' '.join(argv)}\nnot every answer was good: {kept}\n{done.stderr[-1500:]}")
    return result


def post(port, path, body, headers, expect=200):
    """One exchange, for a look at what is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != expect:
        raise Failure(f"port {port} answers {path} with {answer.status}: {text[:800]!r}")
    return dict((k.lower(), v) for k, v in answer.getheaders()), text


def tool_names(port, path, key):
    """The bytes of a `tools/list` answer, and the names in it."""
    headers = {"authorization": f"Bearer {key}", "accept": "application/json, text/event-stream"}
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    got, _ = post(port, path, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}, headers)
    headers |= {"mcp-session-id": got.get("mcp-session-id", ""), "mcp-protocol-version": "2025-06-18"}
    asked = {"jsonrpc": "2.0", "id": 1000000001, "method": "tools/list", "params": {}}
    got, text = post(port, path, asked, headers)
    names = re.findall(rb'"name":"([^"]+)"', text)
    return text, [it.decode() for it in names]


def memory(pid):
    """KiB: proportional, of it anonymous and of files, and resident."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup") as it:
        for line in it:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                found[name] = int(rest.split()[0])
    return {"pss": found["Pss"], "anon": found["Pss_Anon"], "file": found["Pss_File"], "rss": found["Rss"]}


def buckets(text, name):
    """A histogram of Prometheus's: (upper bound, cumulative count)."""
    found = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\S+)$', text, re.M)
    return [(float(bound.replace("+Inf", "inf")), float(count)) for bound, count in found]


def quantile(before, after, q):
    """Of what came between two readings of a histogram, by straight lines within its buckets."""
    counts = [(bound, b[1] - a[1]) for a, b in zip(before, after) for bound in [b[0]]]
    total = counts[-1][1]
    if total <= 0:
        raise Failure("the histogram of overheads counted nothing")
    low, below = 0.0, 0.0
    for bound, count in counts:
        if q * total <= count:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (q * total - below) / max(count - below, 1)
        low, below = bound, count
    return low


def median(all):
    return statistics.median(all)

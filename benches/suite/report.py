"""What was measured, beside what it should be."""

import datetime
import json
import platform
import os
import statistics
import subprocess

MIB = 1024 * 1024
median = statistics.median


def spread(values, digits=1):
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


class Table:
    """Rows of a Markdown table, with a verdict where there is a target."""

    def __init__(self):
        self.lines = ["| what | measured | range | target | |", "|---|---|---|---|---|"]
        self.missed = 0

    def row(self, what, measured, range_, target="", met=None):
        verdict = "" if met is None else ("met" if met else "**missed**")
        self.missed += met is False
        self.lines.append(f"| {what} | {measured} | {range_} | {target} | {verdict} |")


def ratios(rows, case, who, base_case, base, figure):
    """Round by round, so that what disturbed a round disturbs both sides of its ratio."""
    pairs = zip(rows[case, who], rows[base_case, base])
    return [a[figure] / b[figure] for a, b in pairs]


def cost_table(rows):
    """CPU of everybody, absolute: for a feeling, as absolute times mean nothing on a shared machine."""
    lines = ["| case | who | CPU | range | x base | requests/s |", "|---|---|---|---|---|---|"]
    bases = {"stream": "nginx", "tools/list": "nginx"}
    for (case, who), all in rows.items():
        if who == "direct" or case in ("latency", "open loop"):
            continue
        figure, unit = ("cpu_s_per_1m_chunks", "s/1M chunks") if case == "stream" else ("cpu_us_per_req", "us")
        base_case, base = ("chat 1024", "bare") if case == "translated" else (case.split(",")[0], bases.get(case, "bare"))
        values = [it[figure] for it in all]
        ratio = median(ratios(rows, case, who, base_case, base, figure)) if (base_case, base) in rows else None
        ratio = "" if ratio is None else f"{ratio:.2f}"
        lines.append(f"| {case} | {who} | {median(values):.1f} {unit} | {spread(values)} | {ratio} | {median(it['rps'] for it in all):.0f} |")
    return lines


def target_table(rows, facts):
    table = Table()

    def ratio(what, case, who, base_case, base, figure, most):
        if (base_case, base) not in rows:
            table.row(what, f"not measured: {base} is missing", "", f"{most} x {base}")
            return
        all = ratios(rows, case, who, base_case, base, figure)
        table.row(what, f"{median(all):.2f} x {base}", spread(all, 2), f"{most} x", median(all) <= most)

    def at_most(what, value, range_, most, unit, digits=0):
        table.row(what, f"{value:.{digits}f} {unit}", range_, f"{most} {unit}", value <= most)

    cpu = "cpu_us_per_req"
    for size, most in ((1024, 1.35), (10240, 1.35), (102400, 1.5)):
        ratio(f"CPU a request, {size // 1024} KB", f"chat {size}", "althing", f"chat {size}", "bare", cpu, most)
        few = next(case for case, _ in rows if case.startswith(f"chat {size}, "))
        all = ratios(rows, few, "althing", f"chat {size}", "bare", cpu)
        table.row(f"the same with {few.split(', ')[1]} in use", f"{median(all):.2f} x bare", spread(all, 2), "")
    ratio("translated (OpenAI in, Anthropic out), 1 KB", "translated", "althing", "chat 1024", "bare", cpu, 2.5)
    ratio("streaming, CPU a chunk", "stream", "althing", "stream", "nginx", "cpu_s_per_1m_chunks", 1.5)
    added = [a["ttfb"]["p50"] - b["ttfb"]["p50"] for a, b in zip(rows["stream", "althing"], rows["stream", "direct"])]
    at_most("time to first chunk added, p50", median(added), spread(added, 0), 150, "us")
    ratio("MCP tools/call over HTTP", "tools/call", "althing", "tools/call", "bare", cpu, 2.5)
    ratio("MCP tools/list of 500 tools, beside a static file", "tools/list", "althing", "tools/list", "nginx", cpu, 2)
    overhead = [it["overhead_p50"] for it in rows["open loop", "althing"]]
    at_most("in-process overhead at 5,000 requests/s, p50", median(overhead), spread(overhead), 8, "us", 1)
    p99 = [it["overhead_p99"] for it in rows["open loop", "althing"]]
    table.row("the same, p99 (on a shared machine: the scheduler's)", f"{median(p99):.0f} us", spread(p99, 0))
    mover = [it["cpu_apart_us"] for it in rows["chat 1024", "althing"]]
    at_most("record mover, CPU a record", median(mover), spread(mover), 12, "us", 1)

    def mib(what, it, most=None):
        parts = f"anonymous {it['anon'] / 1024:.0f}, of files {it['file'] / 1024:.0f}"
        met = None if most is None else it["pss"] / 1024 <= most
        table.row(what, f"{it['pss'] / 1024:.0f} MiB", parts, "" if most is None else f"{most} MiB", met)

    mib("memory (Pss) at rest", facts["idle"], 30)
    mib(f"after load with {facts['keys']:,} keys", facts["loaded"], 60)
    mib("100,000 keys, after a start", facts["many"], 200)
    mib("100,000 keys, after they were written", facts["many_written"])
    at_most("an open stream", facts["stream_kib"], "", 32, "KiB", 1)
    at_most("start to ready", median(facts["ready"]), spread(facts["ready"], 0), 150, "ms")
    table.row(f"start to ready with {facts['keys']:,} keys and their history", f"{facts['ready_keys']:.0f} ms", "")
    table.row("start to ready with 100,000 keys", f"{facts['many_ready']:.0f} ms", "")
    at_most("binary, stripped", facts["binary"] / MIB, "", 40, "MiB", 1)
    return table


def latency_table(rows):
    lines = ["| who | p50 us | p99 us | p50 added us |", "|---|---|---|---|"]
    direct = [it["total"]["p50"] for it in rows["latency", "direct"]]
    for who in ("direct", "bare", "nginx", "althing"):
        if all := rows.get(("latency", who)):
            added = [it["total"]["p50"] - base for it, base in zip(all, direct)]
            p50, p99 = (median(it["total"][q] for it in all) for q in ("p50", "p99"))
            lines.append(f"| {who} | {p50:.0f} | {p99:.0f} | {median(added):.0f} |")
    return lines


def commit():
    said = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def report(rows, facts, file):
    table = target_table(rows, facts)
    print(f"Commit {commit()}, {datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}); "
          f"{facts['rounds']} rounds of {facts['seconds']} s a case; took {facts['took']:.0f} s.\n")
    print("\n".join(table.lines))
    print("\nCPU of the whole process (user and system), closed loop, 64 connections; without the record mover:\n")
    print("\n".join(cost_table(rows)))
    print("\nLatency, open loop, 1,000 requests/s, 1 KB, from when a request was due:\n")
    print("\n".join(latency_table(rows)))
    print(f"\n{table.missed} targets missed." if table.missed else "\nEvery target met.")
    if file:
        with open(file, "w") as it:
            json.dump({"facts": facts, "rows": {" / ".join(key): value for key, value in rows.items()}}, it, indent=1)

//! What admission costs on the request path: everything taken at three levels, and settled.

#![expect(clippy::expect_used, reason = "a bench that cannot be set up must stop")]

use std::hint::black_box;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use althing::admit::agent::{Agent, Incarnation};
use althing::admit::ledger::memory::MemoryLedger;
use althing::admit::ledger::{BudgetId, Level, Owner};
use althing::admit::{Ask, Cells, KeyLimits, LevelSpec, Mono, admit};
use althing::clock::SystemClock;
use althing::tasks::Tasks;
use althing_domain::id::Name;
use althing_domain::money::NanoUsd;
use althing_domain::policy::{Budget, BudgetMode, Period, Rate, Span};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;

const LIMIT: NanoUsd = NanoUsd(1_000_000_000_000);

fn limits(cells: &Cells, ledger: &MemoryLedger) -> Arc<KeyLimits> {
    let budget = Budget {
        limit_usd: LIMIT,
        period: Period::Total,
        time_zone: None,
        mode: BudgetMode::Strict,
        warn_at: Vec::new(),
    };
    let plenty = NonZeroU64::new(1_000_000_000_000);
    let per = Span(NonZeroU64::MIN.saturating_add(999));
    let rate = Rate { requests: plenty, tokens: plenty, concurrent: plenty, per };
    let levels = [(Level::Customer, "acme"), (Level::Team, "web"), (Level::VirtualKey, "app")];
    let specs = levels.map(|(level, name)| {
        let id = BudgetId::from(format!("{}:{name}:total", level.name()).as_str());
        ledger.set_limit(&id, LIMIT);
        LevelSpec {
            owner: Owner { level, name: Name::new(name), provider: None },
            budgets: vec![(id, &budget)],
            rate: Some(&rate),
        }
    });
    cells.limits_for(&specs)
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (cells, signals) = Cells::new();
    let ledger = Arc::new(MemoryLedger::new(Duration::ZERO));
    let limits = limits(&cells, &ledger);
    let tasks = Tasks::default();
    let port: Arc<MemoryLedger> = Arc::clone(&ledger);
    let agent = Agent::new((cells, signals), port, Arc::new(SystemClock), Incarnation::new(1));
    runtime.block_on(async {
        tasks.spawn("lease-agent", agent.run(tasks.stop().clone()));
        let warm = Ask { upper: NanoUsd(1_000), tokens: 100, at: Mono::now() };
        drop(admit(&limits, warm).await.expect("within"));
    });
    criterion.bench_function("admit, start and settle at three levels", |bencher| {
        bencher.iter(|| {
            let ask = Ask { upper: NanoUsd(1_000), tokens: 100, at: Mono::now() };
            let ticket = admit(black_box(&limits), ask).now_or_never();
            let ticket = ticket.expect("the fast path does not wait").expect("within");
            ticket.start().settle(NanoUsd(1), 90);
        });
    });
    criterion.bench_function("what is left, for an answer's headers", |bencher| {
        bencher.iter(|| althing::admit::left(black_box(&limits), Mono::now()));
    });
    runtime.block_on(tasks.shutdown(Duration::from_secs(5)));
}

criterion_group!(benches, bench);
criterion_main!(benches);

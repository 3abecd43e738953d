//! What a call cost, and the record of it.
//!
//! A [`Call`] is opened when a caller is known and closed exactly once: by [`Call::close`], or by its drop, which
//! counts as the caller having left. Closing settles the money, writes the record, counts the metrics and hands the call to OTLP, in that order.

mod recorder;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use althing_domain::money::NanoUsd;
use althing_llm::price::{self, Price};
use althing_llm::usage::Usage;
use althing_storage::record::{Bodies, Kind, Record, Status, Tokens};
use althing_storage::spool::Room;
use tokio::time::Instant;

use crate::admit::{Mono, Running};
use crate::error::{Code, Error, Tried};
use crate::gateway::{KeepBodies, Seat};
use crate::telemetry::metric::{Ending, Metrics, Series};
use crate::telemetry::probe::Probe;

pub use recorder::{Recorder, WhenFull};

/// A call on its way, with all that closing it needs.
pub struct Call {
    /// The record as far as it is known.
    pub record: Record,
    /// What the call holds of money and rates, once it was started.
    pub running: Option<Running>,
    /// What a token costs at the target.
    pub price: Price,
    /// What a call costs beside its tokens.
    pub fee: NanoUsd,
    /// The counters of the target.
    pub series: Option<Arc<Series>>,
    /// The caller's place among its requests in flight.
    pub seat: Option<Seat>,
    /// What is noted for traces and metrics by OTLP; `None` where that is off.
    pub probe: Option<Box<Probe>>,
    /// What it is taken to have used where its caller leaves before its vendor has said anything.
    pub lost: Usage,
    /// Whether nothing of what was said is kept, by its caller's wish.
    pub is_off_record: bool,
    usage: Usage,
    started: Instant,
    /// When the gateway began to work on it itself; `None` while it waits for somebody else.
    working_since: Option<Instant>,
    overhead: Duration,
    room: Option<Room>,
    recorder: Arc<Recorder>,
    metrics: Arc<Metrics>,
    closed: bool,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Answered, with this status.
    Ok(u16),
    /// Refused by policy before an upstream was called.
    Refused(u16, Code),
    /// Failed, here or upstream.
    Failed(u16, Code),
    /// The caller left.
    Cancelled,
}

impl Ended {
    /// How a call ended that is answered with `error`.
    #[must_use]
    pub fn by(error: &Error) -> Self {
        let status = error.http_status().as_u16();
        match error.code {
            Code::BudgetExhausted
            | Code::PriceUnknown
            | Code::ModelForbidden
            | Code::ToolForbidden
            | Code::RateLimited
            | Code::ModelUnknown
            | Code::ToolUnknown
            | Code::Forbidden => Self::Refused(status, error.code),
            Code::Cancelled => Self::Cancelled,
            code => Self::Failed(status, code),
        }
    }
}

impl Call {
    /// Opens a call whose request began to come at `started`, and was there at `ready`. `room` is where its record will go.
    /// In a box: it is handed from stage to stage.
    #[must_use]
    pub fn open(
        record: Record,
        (started, ready): (Instant, Instant),
        room: Room,
        (recorder, metrics): (&Arc<Recorder>, &Arc<Metrics>),
    ) -> Box<Self> {
        metrics.in_flight.inc();
        Box::new(Self {
            record,
            running: None,
            price: Price::default(),
            fee: NanoUsd::ZERO,
            series: None,
            seat: None,
            probe: None,
            lost: Usage::default(),
            is_off_record: false,
            usage: Usage::default(),
            started,
            working_since: Some(ready),
            overhead: Duration::ZERO,
            room: Some(room),
            recorder: Arc::clone(recorder),
            metrics: Arc::clone(metrics),
            closed: false,
        })
    }

    /// From now on, which is given, the call waits for somebody else: time that is not counted as the gateway's own.
    pub fn pause(&mut self) -> Instant {
        let now = Instant::now();
        self.pause_at(now);
        now
    }

    fn pause_at(&mut self, now: Instant) {
        if let Some(since) = self.working_since.take() {
            self.overhead += now.saturating_duration_since(since);
        }
    }

    /// From here on the gateway works on it itself.
    pub fn resume(&mut self) {
        self.working_since = Some(Instant::now());
    }

    /// When the request began.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Notes what was used so far: what it settles at if it ends now. `estimated`: by our count, not the vendor's.
    pub fn meter(&mut self, usage: Usage, estimated: bool) {
        self.usage = usage;
        self.record.tokens.estimated = estimated;
        let so_far = self.cost();
        if let Some(running) = &mut self.running {
            running.meter(so_far);
        }
    }

    /// What it has used so far.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// What it has cost so far.
    #[must_use]
    pub fn cost(&self) -> NanoUsd {
        price::cost(&self.usage, &self.price).saturating_add(self.fee)
    }

    /// Says in `error`, which the call is about to end with, where it was tried.
    #[must_use]
    pub fn told(&self, mut error: Error) -> Error {
        if let (Some(provider), Some(model)) = (&self.record.provider, &self.record.model) {
            error.tried = Some(Box::new(Tried {
                provider: Arc::clone(provider),
                model: Arc::clone(model),
                attempts: self.record.attempts,
            }));
        }
        error
    }

    /// Which bodies are kept of it, where the configuration says `configured`.
    #[must_use]
    pub const fn keeps(&self, configured: KeepBodies) -> KeepBodies {
        if self.is_off_record { KeepBodies::Off } else { configured }
    }

    /// Keeps bodies with the record.
    pub fn keep_bodies(&mut self, bodies: Bodies) {
        self.record.bodies = Some(Box::new(bodies));
    }

    /// Closes it. Money first: a record that cannot be written must not keep money reserved.
    pub fn close(mut self: Box<Self>, ended: &Ended) {
        self.finish(ended);
    }

    fn finish(&mut self, ended: &Ended) {
        if self.closed {
            return;
        }
        self.closed = true;
        let now = Instant::now();
        let cost = self.settle(ended, Mono::of(now));
        let latency = now.saturating_duration_since(self.started);
        self.pause_at(now);
        let usage = self.usage;
        let record = &mut self.record;
        if self.is_off_record {
            // Here, too, whatever stage put it there: this is the one way into the log.
            record.forget_content();
        }
        record.cost_nano_usd = cost.0;
        record.overhead_us = u64::try_from(self.overhead.as_micros()).unwrap_or(u64::MAX);
        record.latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        record.tokens = Tokens {
            input: usage.input,
            cached_input: usage.cached_input,
            cache_write: usage.cache_write,
            output: usage.output,
            reasoning: usage.reasoning,
            estimated: record.tokens.estimated,
        };
        let is_model = record.kind == Kind::ModelCall;
        let ending = describe(record, ended);
        if let Some(room) = self.room.take() {
            self.recorder.append(room, record);
        }
        if let Some(series) = &self.series {
            series.count(ending);
            series.add_usage(usage.input, usage.cached_input, usage.output, cost.0);
        } else {
            self.metrics.without_target(is_model, ending);
        }
        if let Ended::Refused(_, code) = ended {
            self.metrics.refused.with_label_values(&[code.name()]).inc();
        }
        self.metrics.in_flight.dec();
        self.metrics.duration.observe(latency.as_secs_f64());
        self.metrics.overhead.observe(self.overhead.as_secs_f64());
        if let Some(probe) = self.probe.take() {
            // The record has been written: what is left of it is not needed here any more.
            let nothing = Record::new(0, 0, Arc::clone(&self.record.node), self.record.kind);
            let record = std::mem::replace(&mut self.record, nothing);
            probe.finish(record, self.started, self.started + latency);
        }
    }

    fn settle(&mut self, ended: &Ended, now: Mono) -> NanoUsd {
        let Some(running) = self.running.take() else { return NanoUsd::ZERO };
        if *ended == Ended::Cancelled && self.usage == Usage::default() {
            // Nothing came back and the vendor may bill: what was reserved counts as spent.
            let upper = running.upper();
            self.usage = self.lost;
            self.record.tokens.estimated = true;
            drop(running);
            return upper;
        }
        let cost = self.cost();
        running.settle_at(cost, self.usage.input.saturating_add(self.usage.output), now);
        cost
    }
}

fn describe(record: &mut Record, ended: &Ended) -> Ending {
    match *ended {
        Ended::Ok(status) => {
            record.status = Status::Ok;
            record.http_status = status;
            Ending::Ok
        }
        Ended::Refused(status, code) => {
            record.status = Status::Refused;
            record.http_status = status;
            record.error = Some(Cow::Borrowed(code.name()));
            Ending::Refused
        }
        Ended::Failed(status, code) => {
            record.status = Status::Failed;
            record.http_status = status;
            record.error = Some(Cow::Borrowed(code.name()));
            Ending::Failed
        }
        Ended::Cancelled => {
            record.status = Status::Cancelled;
            record.http_status = Code::Cancelled.status();
            record.error = Some(Cow::Borrowed(Code::Cancelled.name()));
            Ending::Cancelled
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(&Ended::Cancelled);
    }
}

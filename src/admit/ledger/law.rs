//! The ledger in the law: batches as commands.

use std::future::Future;
use std::pin::Pin;

use althing_domain::command::{FinalLease, NodeAsks, Op, Reply};
use async_trait::async_trait;

use super::{Answer, Batch, Finished, Ledger, LedgerError};

/// A proposal on its way: the answer of the law once it is committed and applied here.
pub type Proposal = Pin<Box<dyn Future<Output = Result<Reply, LedgerError>> + Send>>;

/// Proposes a command in the name of this node.
pub type Propose = Box<dyn Fn(Op) -> Proposal + Send + Sync>;

/// The ledger in the law, as one node sees it.
pub struct LawLedger {
    node: u64,
    propose: Propose,
}

impl LawLedger {
    /// The ledger for `node`, whose commands go through `propose`.
    #[must_use]
    pub fn new(node: u64, propose: Propose) -> Self {
        Self { node, propose }
    }
}

#[async_trait]
impl Ledger for LawLedger {
    async fn batch(&self, batch: Batch) -> Result<Answer, LedgerError> {
        let Batch { incarnation, asks } = batch;
        let op = Op::LeaseBatch(vec![NodeAsks { node: self.node, incarnation, asks }]);
        let Reply::Leases(all) = (self.propose)(op).await? else {
            return Err(LedgerError::Failed("the law answered something else".to_owned()));
        };
        let mine = all.into_iter().find(|it| it.node == self.node);
        let mine =
            mine.ok_or_else(|| LedgerError::Failed("the law answered another node".to_owned()))?;
        Ok(Answer { grants: mine.grants, unknown: mine.unknown, stale: mine.stale })
    }

    async fn finish(&self, finished: Vec<Finished>) -> Result<(), LedgerError> {
        let mut rest = finished;
        // One command a life; there is more than one only after the node was taken for dead.
        while let Some(incarnation) = rest.first().map(|it| it.incarnation) {
            let (now, later): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|it| it.incarnation == incarnation);
            rest = later;
            let leases = now.into_iter().map(|it| {
                let Finished { budget, epoch, used, .. } = it;
                FinalLease { budget, epoch, used }
            });
            let op = Op::Final { node: self.node, incarnation, leases: leases.collect() };
            (self.propose)(op).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

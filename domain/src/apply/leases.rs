//! Money: leases asked for, reported, ended and written off.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Applying;
use crate::audit::Act;
use crate::budget::{Account, BudgetId};
use crate::command::{FinalLease, NodeAsks, NodeGrants, Reply};
use crate::money::NanoUsd;

impl Applying<'_> {
    pub(super) fn lease_batch(&mut self, batch: &NodeAsks) -> NodeGrants {
        let NodeAsks { node, incarnation, asks } = batch;
        let (node, incarnation) = (*node, *incarnation);
        let known = self.state.incarnations.get(&node).copied();
        let stale = known.is_some_and(|it| incarnation < it);
        let mut answer =
            NodeGrants { node, incarnation, stale, grants: Vec::new(), unknown: Vec::new() };
        if stale {
            return answer;
        }
        if known.is_some_and(|it| it < incarnation) {
            // The life before this one is over. What it held may be spent; its exact figure, if it comes, is refunded.
            self.write_off(node, incarnation.saturating_sub(1));
        }
        if known != Some(incarnation) {
            self.state.incarnations.insert(node, incarnation);
        }
        for ask in asks {
            let now = self.now();
            let grant = self
                .with_account(&ask.budget, |account| account.ask(now, (node, incarnation), ask));
            match grant {
                Some(grant) => answer.grants.push(grant),
                None => answer.unknown.push(ask.budget.clone()),
            }
        }
        answer
    }

    pub(super) fn finish(&mut self, node: u64, incarnation: u64, leases: &[FinalLease]) -> Reply {
        let now = self.now();
        for FinalLease { budget, epoch, used } in leases {
            self.with_account(budget, |account| {
                account.finish(now, (node, incarnation), *epoch, *used);
            });
        }
        Reply::Done
    }

    pub(super) fn close(&mut self, node: u64, incarnation: u64) -> Reply {
        Reply::Closed { written_off: self.write_off(node, incarnation) }
    }

    fn write_off(&mut self, node: u64, incarnation: u64) -> NanoUsd {
        let now = self.now();
        let mut total = NanoUsd::ZERO;
        for budget in self.state.budgets_of_node(node) {
            let charged =
                self.with_account(&budget, |account| account.write_off(now, node, incarnation));
            let charged = charged.unwrap_or_default();
            if charged != NanoUsd::ZERO {
                self.audit(Act {
                    action: "written-off",
                    kind: "budgets".to_owned(),
                    name: budget.to_string(),
                    note: Some(format!(
                        "{charged} USD that node {node} held up to incarnation {incarnation}"
                    )),
                    ..Act::default()
                });
            }
            total = total.saturating_add(charged);
        }
        total
    }

    /// Runs `change` on the account of `budget`, rolled to now, and notes who has leases of it afterwards.
    fn with_account<R>(
        &mut self,
        budget: &BudgetId,
        change: impl FnOnce(&mut Account) -> R,
    ) -> Option<R> {
        let mut account = Account::clone(self.state.accounts.get(budget)?);
        let before: BTreeSet<u64> = account.open_nodes().collect();
        account.roll(self.at.index, self.at.time);
        let result = change(&mut account);
        let after: BTreeSet<u64> = account.open_nodes().collect();
        for node in before.difference(&after) {
            self.state.derived.open_leases.remove(&(*node, budget.clone()));
        }
        for node in after.difference(&before) {
            self.state.derived.open_leases.insert((*node, budget.clone()));
        }
        self.state.accounts.insert(budget.clone(), Arc::new(account));
        self.changes.budgets.insert(budget.clone());
        Some(result)
    }
}

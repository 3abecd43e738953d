//! A toy state machine: names and values.

use std::collections::BTreeMap;
use std::sync::Arc;

use althing_storage::snapshot;
use parking_lot::Mutex;

use crate::state_machine::{At, Frozen, RestoreError, StateMachine, Unknown};

/// What readers see of a [`Register`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) index: u64,
    pub(crate) values: BTreeMap<String, String>,
    /// Times of the commands, in order, since the last restore.
    pub(crate) times: Vec<u64>,
}

/// Understands `set NAME VALUE`, whose reply is the old value, and `panic`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Register {
    state: View,
    pub(crate) view: Arc<Mutex<View>>,
}

impl StateMachine for Register {
    type Reply = Option<String>;

    fn apply(&mut self, at: At, command: &[u8]) -> Result<Option<String>, Unknown> {
        let text = std::str::from_utf8(command).map_err(|e| Unknown(e.to_string()))?;
        self.state.times.push(at.time_ms);
        match text.splitn(3, ' ').collect::<Vec<_>>()[..] {
            ["set", name, value] => Ok(self.state.values.insert(name.to_owned(), value.to_owned())),
            ["panic"] => panic!("asked to"),
            _ => Err(Unknown(format!("what is {text:?}"))),
        }
    }

    fn publish(&mut self, index: u64) {
        self.state.index = index;
        *self.view.lock() = self.state.clone();
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.state.clone())
    }

    fn restore(
        &mut self,
        records: &mut dyn Iterator<Item = Result<Vec<u8>, snapshot::Error>>,
    ) -> Result<(), RestoreError> {
        self.state = View::default();
        for record in records {
            let text =
                String::from_utf8(record?).map_err(|e| RestoreError::Unknown(e.to_string()))?;
            let (name, value) =
                text.split_once(' ').ok_or_else(|| RestoreError::Unknown(text.clone()))?;
            self.state.values.insert(name.to_owned(), value.to_owned());
        }
        Ok(())
    }
}

impl Frozen for View {
    fn records(&self) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        Box::new(self.values.iter().map(|(name, value)| format!("{name} {value}").into_bytes()))
    }
}

//! Demands to say when everything is read that a partition holds at their moment; and, by their channel, the end of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

use rdkafka::consumer::BaseConsumer;
use tokio::sync::oneshot;

use super::{
    super::loading::{Goal, Partition},
    RETRY,
};
use crate::log_ends;

/// One of them.
pub(in super::super) struct Order {
    pub(in super::super) partition: i32,
    pub(in super::super) reply: oneshot::Sender<()>,
}

/// Those that are not answered.
pub(super) struct Demands {
    orders: Receiver<Order>,
    /// For which the brokers are still to be asked how far the log reaches.
    fresh: Vec<Order>,
    ask_at: Instant,
    open: Vec<Order>,
}

impl Demands {
    pub(super) fn new(orders: Receiver<Order>) -> Self {
        Self { orders, fresh: Vec::new(), ask_at: Instant::now(), open: Vec::new() }
    }

    /// Takes what has come; false when the store is gone.
    pub(super) fn receive(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.fresh.push(order),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits so long, or until something comes; false when the store is gone.
    pub(super) fn wait(&mut self, wait: Duration) -> bool {
        match self.orders.recv_timeout(wait) {
            Ok(order) => self.fresh.push(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Makes goals of new demands. The end of a partition may have been told already for a lower offset, so it does not
    /// count for these goals.
    pub(super) fn ask(&mut self, observer: &BaseConsumer, topic: &str, partitions: &mut BTreeMap<i32, Partition>) {
        if self.fresh.is_empty() || Instant::now() < self.ask_at {
            return;
        }
        let wanted: BTreeSet<i32> = self.fresh.iter().map(|order| order.partition).collect();
        let wanted: Vec<i32> = wanted.into_iter().filter(|number| partitions.contains_key(number)).collect();
        let highs = match log_ends::ends(observer, topic, &wanted) {
            Ok(highs) if !wanted.is_empty() => highs,
            _ => {
                self.ask_at = Instant::now() + RETRY;
                return;
            }
        };
        for (number, high) in &highs {
            partitions.get_mut(number).into_iter().for_each(|partition| partition.demand(Goal::new(*high, None)));
        }
        let asked = |order: &mut Order| highs.contains_key(&order.partition);
        self.open.extend(self.fresh.extract_if(.., asked));
    }

    /// Answers those that are met.
    pub(super) fn answer(&mut self, partitions: &BTreeMap<i32, Partition>) {
        let is_met =
            |order: &mut Order| partitions.get(&order.partition).is_some_and(|p| p.is_loaded() && p.is_at_demand());
        for order in self.open.extract_if(.., is_met) {
            // Who asked may have lost interest.
            let _ = order.reply.send(());
        }
    }
}

//! What `/readyz` tells of overload: the condition `requests`.
//!
//! It always holds. Overload is seldom one instance's alone; one that left the balancer for it would leave its load to the
//! others, until none is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use shared::admin::Condition;

use crate::app::App;

/// How often it is told.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far back refusals are told, in intervals.
const WINDOW: usize = 10;

/// Tells it until it is aborted.
pub(crate) async fn tell(app: Arc<App>, requests: Condition) {
    let (mut refused, mut ticks) = (Refused::default(), tokio::time::interval(INTERVAL));
    loop {
        ticks.tick().await;
        let max = app.config.requests_max;
        let in_hand = max.saturating_sub(app.in_hand.available_permits());
        let recently = refused.recently(app.observe.shed_count());
        let seconds = (INTERVAL * WINDOW as u32).as_secs();
        requests.set(true, format!("{in_hand} of {max} in hand, {recently} refused in the last {seconds} s"));
    }
}

/// How many had been refused at each of the last ticks.
#[derive(Debug, Default)]
struct Refused(VecDeque<u64>);

impl Refused {
    /// Takes how many have been refused until this tick, and gives how many of them within the window.
    fn recently(&mut self, until_now: u64) -> u64 {
        self.0.push_back(until_now);
        if self.0.len() > WINDOW + 1 {
            self.0.pop_front();
        }
        until_now - self.0.front().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_for_as_long_as_the_window() {
        let mut refused = Refused::default();
        let totals = [0, 3].into_iter().chain([5; WINDOW + 1]);
        let told: Vec<u64> = totals.map(|total| refused.recently(total)).collect();
        assert_eq!(told[..4], [0, 3, 5, 5]);
        assert_eq!(told[WINDOW..], [5, 2, 0], "each is forgotten when it is older than the window");
    }
}

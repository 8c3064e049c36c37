//! Which replica is asked. Pure: what is known of each goes in, the order in which they are tried comes out.
//!
//! ```text
//! 1. not the one that just failed        4. not behind; else the one that is least so
//! 2. gives samples promptly              5. the fewest look-ups in flight
//! 3. trusted (errors, coming back)       6. by turns
//! ```
//!
//! All but the hard limit on staleness are preferences: where no replica is as it should be, the best of them answers.

use std::time::Duration;

use smallvec::SmallVec;

/// One of each replica, on the stack where there are as few as usual.
pub(super) type Few<T> = SmallVec<[T; 4]>;

/// What is known of a replica at one moment. One that can't be asked at all is not among those that are ranked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// The look-up has failed there already.
    pub(super) failed: bool,
    /// The share of its requests that it is to get, from 0 to 1.
    pub(super) share: f64,
    /// Its last sample is as young as it should be.
    pub(super) prompt: bool,
    pub(super) lag: Duration,
    pub(super) in_flight: usize,
}

/// The limits of lag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Beyond it a replica is left out while another is not behind.
    pub(super) lag_max: Duration,
    /// Beyond it it never answers.
    pub(super) staleness_max: Option<Duration>,
}

impl Limits {
    /// Whether the replica may answer at all.
    pub(super) fn admit(&self, lag: Duration) -> bool {
        self.staleness_max.is_none_or(|max| lag <= max)
    }

    /// Whether it is behind, so that others are preferred and its answers say so.
    pub(super) fn behind(&self, lag: Duration) -> bool {
        lag > self.lag_max
    }

    /// Replicas in one step of lag share the load: measured lags differ by a sample even where replicas do not.
    fn step(&self, lag: Duration) -> u64 {
        if self.behind(lag) { 1 + (lag.as_micros() / self.lag_max.as_micros().max(1)) as u64 } else { 0 }
    }
}

/// The replicas by preference, as indexes of `standings`. `turn` is another number for each request.
pub(super) fn rank(standings: &[Standing], limits: &Limits, turn: usize) -> Few<usize> {
    let mut order: Few<usize> = (0..standings.len()).filter(|index| limits.admit(standings[*index].lag)).collect();
    if order.len() > 1 {
        let lot = lot(turn);
        order.sort_by_cached_key(|index| {
            let standing = &standings[*index];
            let distrust = if standing.share > 0.0 { u8::from(standing.share <= lot) } else { 2 };
            let by_turns = (index + turn) % standings.len();
            let lag = limits.step(standing.lag);
            (standing.failed, !standing.prompt, distrust, lag, standing.in_flight, by_turns)
        });
    }
    order
}

/// A number from 0 to below 1 for each turn, evenly spread: multiples of the golden ratio.
fn lot(turn: usize) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    ((turn as u64).wrapping_mul(GOLDEN) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Standing = Standing { failed: false, share: 1.0, prompt: true, lag: Duration::ZERO, in_flight: 0 };
    const LIMITS: Limits = Limits { lag_max: Duration::from_secs(2), staleness_max: None };

    fn lagging(seconds: u64) -> Standing {
        Standing { lag: Duration::from_secs(seconds), ..FINE }
    }

    fn first(standings: &[Standing]) -> usize {
        let firsts: Vec<usize> = (0..20).map(|turn| rank(standings, &LIMITS, turn)[0]).collect();
        assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
        firsts[0]
    }

    #[test]
    fn each_preference_outweighs_those_below_it() {
        let failed = Standing { failed: true, ..FINE };
        let distrusted = Standing { share: 0.0, ..FINE };
        let slow = Standing { prompt: false, ..FINE };
        let (behind, busy) = (lagging(3), Standing { in_flight: 1, ..FINE });
        let worsening = [busy, behind, distrusted, slow, failed];
        for (index, better) in worsening.iter().enumerate() {
            assert_eq!(first(&[*better, FINE]), 1, "{better:?}");
            for worse in &worsening[index + 1..] {
                assert_eq!(first(&[*worse, *better]), 1, "{better:?} before {worse:?}");
            }
        }
    }

    #[test]
    fn when_all_lag_the_least_stale_answers_and_equals_share() {
        assert_eq!(first(&[lagging(90), lagging(7), lagging(12)]), 1);
        let first = |turn| rank(&[lagging(90), lagging(90)], &LIMITS, turn)[0];
        assert_ne!(first(0), first(1));
    }

    #[test]
    fn beyond_the_hard_limit_none_answers() {
        let limits = Limits { staleness_max: Some(Duration::from_secs(10)), ..LIMITS };
        assert_eq!(rank(&[lagging(11), lagging(10)], &limits, 0)[..], [1]);
        assert!(rank(&[lagging(11)], &limits, 0).is_empty());
    }

    #[test]
    fn one_that_comes_back_gets_its_share() {
        for (share, least, most) in [(0.0, 0, 0), (0.1, 80, 120), (0.5, 480, 520), (1.0, 1000, 1000)] {
            let back = Standing { share, ..FINE };
            let busy = Standing { in_flight: 9, ..FINE };
            let asked = (0..1000).filter(|turn| rank(&[busy, back], &LIMITS, *turn)[0] == 1).count();
            assert!((least..=most).contains(&asked), "{share}: {asked}");
            assert_eq!(rank(&[back], &LIMITS, 0)[..], [0], "alone it is asked all the same");
        }
    }

    #[test]
    fn idle_replicas_are_asked_by_turns() {
        let asked = |replica| (0..300).filter(|turn| rank(&[FINE; 3], &LIMITS, *turn)[0] == replica).count();
        assert_eq!([asked(0), asked(1), asked(2)], [100, 100, 100]);
    }
}

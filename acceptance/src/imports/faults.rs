//! Who is killed when, drawn from the seed.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// SIGKILL of one service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kill {
    /// Its number among the services.
    pub(super) member: usize,
    /// As soon as this part of the import is done.
    pub(super) after: f64,
    /// What an upload has come to when jobs dies.
    pub(super) moment: Moment,
}

/// Where an upload is when jobs is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nothing is under way.
    Idle,
    /// Half of the file is in the spool.
    HalfSent,
    /// All was sent, and nobody knows what became of it.
    Sent,
}

/// So many kills, each of the services in turn and in an order of its own each time.
pub(super) fn kills(rng: &mut StdRng, kills: usize, members: usize) -> Vec<Kill> {
    let mut places: Vec<f64> = (0..kills).map(|_| rng.random_range(0.02..0.98)).collect();
    places.sort_by(f64::total_cmp);
    let mut turn: Vec<usize> = Vec::new();
    let mut kill = |after| {
        if turn.is_empty() {
            turn.extend(0..members);
            turn.shuffle(rng);
        }
        let moment = [Moment::Idle, Moment::HalfSent, Moment::Sent][rng.random_range(0..3)];
        Kill { member: turn.pop().unwrap_or_default(), after, moment }
    };
    places.into_iter().map(&mut kill).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_service_is_killed_in_turn_while_the_import_goes_on() {
        let kills = kills(&mut StdRng::seed_from_u64(3), 20, 5);
        assert!(kills.is_sorted_by(|a, b| a.after <= b.after) && kills[19].after < 1.0);
        for turn in kills.chunks(5) {
            let mut members: Vec<_> = turn.iter().map(|kill| kill.member).collect();
            members.sort_unstable();
            assert_eq!(members, [0, 1, 2, 3, 4]);
        }
    }
}

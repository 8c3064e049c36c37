//! The search for the one record that Postgres refuses: halves are tried, good ones are stored on the way. Pure.

/// How far the search is. Records are counted from the first that is not stored.
#[derive(Debug, Default)]
pub(super) struct Bisection {
    /// The refused record is among the first so many.
    suspects: Option<usize>,
}

/// What a refusal leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused<T> {
    /// Fewer records are tried next.
    Narrowed,
    /// It is this one.
    Found(T),
    /// Nothing was tried that could have been refused.
    Nothing,
}

impl Bisection {
    /// How many of `count` records the next attempt stores.
    pub(super) fn attempt(&self, count: usize) -> usize {
        match self.suspects {
            None => count,
            Some(suspects) => suspects.div_ceil(2).min(count),
        }
    }

    /// The attempt has stored so many.
    pub(super) fn stored(&mut self, count: usize) {
        self.suspects = self.suspects.and_then(|suspects| suspects.checked_sub(count)).filter(|left| *left > 0);
    }

    /// The attempt with so many was refused; `only` is the one record of an attempt with one.
    pub(super) fn refused<T>(&mut self, count: usize, only: Option<T>) -> Refused<T> {
        match (count, only) {
            (1, Some(record)) => {
                self.suspects = None;
                Refused::Found(record)
            }
            (2.., _) => {
                self.suspects = Some(count);
                Refused::Narrowed
            }
            _ => Refused::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores records of which some are refused. Gives those found, those stored, and the number of attempts.
    fn run(count: usize, bad: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut left, mut search): (Vec<usize>, _) = ((0..count).collect(), Bisection::default());
        let (mut found, mut stored, mut attempts) = (Vec::new(), Vec::new(), 0);
        while !left.is_empty() {
            attempts += 1;
            assert!(attempts <= 10 * (count + 1), "the search for {bad:?} of {count} does not end");
            let tried = search.attempt(left.len());
            assert!((1..=left.len()).contains(&tried), "{tried} of {}", left.len());
            let is_refused = |record: &usize| bad.contains(record) && !found.contains(record);
            if left[..tried].iter().any(is_refused) {
                if let Refused::Found(record) = search.refused(tried, left.first().copied()) {
                    found.push(record);
                }
                continue;
            }
            stored.extend(left.drain(..tried));
            search.stored(tried);
        }
        (found, stored, attempts)
    }

    #[test]
    fn each_bad_record_is_found_and_every_record_stored_once_in_order() {
        for count in 1..40 {
            for bad in 0..count {
                for other in [bad, count - 1, count / 2] {
                    let mut expected = vec![bad, other];
                    expected.sort_unstable();
                    expected.dedup();
                    let (found, stored, _) = run(count, &[bad, other]);
                    assert_eq!((found, stored), (expected, (0..count).collect()), "{bad} and {other} of {count}");
                }
            }
        }
    }

    #[test]
    fn the_search_takes_about_log2_attempts() {
        for bad in 0..2000 {
            let (.., attempts) = run(2000, &[bad]);
            assert!(attempts <= 14, "{attempts} for {bad} of 2000");
        }
        assert_eq!(run(2000, &[]).2, 1);
        assert_eq!(run(1, &[0]).2, 2);
    }

    #[test]
    fn an_attempt_without_records_blames_none() {
        assert_eq!(Bisection::default().refused::<i32>(0, None), Refused::Nothing);
    }
}

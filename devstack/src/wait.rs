//! Waiting for conditions, always with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks at a condition: short against every start, long against the cost of a look.
const POLL: Duration = Duration::from_millis(20);

/// Looks at a condition until it gives a value; after `deadline` it is an error that names `what` was waited for.
pub async fn eventually<T>(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if started.elapsed() >= deadline {
            bail!("not within {} s: {what}", deadline.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_looked_at_until_it_holds_and_no_longer_than_the_deadline() {
        let mut looks = 0;
        let third = eventually("three looks", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(third.await.unwrap(), 3);
        let never = eventually("the impossible", Duration::ZERO, async || None::<()>).await.unwrap_err();
        assert_eq!(never.to_string(), "not within 0 s: the impossible");
    }
}

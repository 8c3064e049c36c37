//! A minute of random faults; longer by `make torture SEED=… MINUTES=…`.

use std::time::Duration;

use anyhow::Result;

#[tokio::test(flavor = "multi_thread")]
async fn under_random_faults_the_view_becomes_the_models_and_no_answer_is_wrong() -> Result<()> {
    acceptance::torture(rand::random(), Duration::from_secs(60)).await
}

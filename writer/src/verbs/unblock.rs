//! `writer unblock`: ends `blocked` or `braked`.

use super::{Refused, UnblockArgs, View, by};
use crate::{
    config::Config,
    ends::Ends,
    position::{self, Topic},
    store::{Audit, BlockedState, Operation, PositionRow},
    topic_id::{self, TopicId},
};

/// Lets a partition go on, at the record it stands at or behind it, and answers with the new row.
pub async fn run(config: &Config, args: &UnblockArgs) -> anyhow::Result<()> {
    let topic = Topic::ask(config).await?;
    let ends = topic.partition(&config.topic, args.partition)?;
    let mut view = View::open(config).await?;
    let skip = args.skip_to.map(|offset| format!(" --skip-to {offset}")).unwrap_or_default();
    let (by, arguments) = (by(), format!("--partition {}{skip}", args.partition));
    let audit = Audit { action: "unblock", arguments: &arguments, reason: &args.why.reason, by: &by };
    let mut operation = Operation::begin(&mut view.connection, view.generation, &config.topic).await?;
    let row = operation.lock(Some(&[args.partition])).await?.pop();
    let state = row.as_ref().and_then(|row| state_of(row, ends, topic.topic_id.as_ref()));
    match (&row, state) {
        (Some(row), Some(BlockedState::Blocked | BlockedState::Braked)) => {
            behind(args, row, ends)?;
            operation.unblock(args.partition, args.skip_to).await?;
            operation.commit(audit).await?;
        }
        (_, Some(state)) => return Err(stands_otherwise(args.partition, state).into()),
        (Some(_), None) if operation.is_repeated(args.partition, audit).await? => drop(operation),
        _ => return Err(does_not_stand(args.partition).into()),
    }
    position::print_row(&view.line(config, args.partition, &topic).await?, config.json)
}

/// Where it goes on lies behind the record that it stands at, and in the log.
fn behind(args: &UnblockArgs, row: &PositionRow, ends: Ends) -> Result<(), Refused> {
    let stands_at = row.blocked_offset.unwrap_or(row.next_offset).max(row.next_offset);
    match args.skip_to {
        Some(offset) if offset <= stands_at || !ends.hold(offset) => Err(Refused(format!(
            "--skip-to {offset}: partition {} stands at offset {stands_at} and its log ends at {}; skip to an offset \
             behind the one and not beyond the other (`writer position set` goes back)",
            args.partition, ends.high
        ))),
        _ => Ok(()),
    }
}

/// How the partition stands: as the row says, or as topic and log do, of which no writer may have heard yet.
fn state_of(row: &PositionRow, ends: Ends, topic_id: Option<&TopicId>) -> Option<BlockedState> {
    let changed = topic_id::differ(row.topic_id.as_deref(), topic_id).then_some(BlockedState::TopicChanged);
    let outside = (!ends.hold(row.next_offset)).then_some(BlockedState::OutOfRange);
    row.blocked_state.as_deref().and_then(BlockedState::of).or(changed).or(outside)
}

fn does_not_stand(partition: i32) -> Refused {
    Refused(format!(
        "partition {partition} does not stand; there is nothing to unblock (`writer position` shows the states)"
    ))
}

fn stands_otherwise(partition: i32, state: BlockedState) -> Refused {
    Refused(format!(
        "partition {partition} is {}, which says that its position does not fit the log; give it one that does: \
         writer position set --partition {partition} --to OFFSET --reason TEXT",
        state.as_str()
    ))
}

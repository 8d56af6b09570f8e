use super::*;

fn skip(lsn: u64) -> Record {
    Record::new(RecordKind::Skip, Some(Until::Lsn(Lsn(lsn))))
}

fn until(place: Until) -> Record {
    Record::new(RecordKind::SkipUntil, Some(place))
}

fn reached(first: u64, stored: u64) -> Reached {
    Reached { stored: Lsn(stored), first: Some(Lsn(first)), ..Reached::default() }
}

#[test]
fn a_record_stays_until_the_position_has_passed_it() {
    let records = [skip(20), until(Until::Lsn(Lsn(30))), Record::new(RecordKind::Pause, None)];
    let mut reached = reached(10, 19);
    reached.skipped.insert(Lsn(20));
    assert_eq!(reached.done(&records), Done::default(), "skipped, and not durable");
    reached.stored = Lsn(20);
    assert_eq!(reached.done(&records).remove, [skip(20)]);
    reached.stored = Lsn(99);
    assert_eq!(reached.done(&records).remove, records[..2], "a pause is never done with");
}

#[test]
fn a_skip_of_nothing_is_told() {
    let mut reached = reached(10, 40);
    reached.skipped.insert(Lsn(20));
    let done = reached.done(&[skip(10), skip(20), skip(30)]);
    // the first may have been skipped by a process before this one
    assert_eq!((done.remove, done.missed), (vec![skip(10), skip(20)], vec![skip(30)]));
    let noted = Record { note: "told".into(), ..skip(30) };
    assert_eq!(reached.done(&[noted]), Done::default());
}

#[test]
fn a_time_has_passed_with_what_committed_later() {
    let record = until(Until::Time(5));
    let mut reached = reached(10, 40);
    assert_eq!(reached.done(std::slice::from_ref(&record)), Done::default());
    reached.later.insert(5, Lsn(41));
    assert_eq!(reached.done(std::slice::from_ref(&record)), Done::default());
    reached.stored = Lsn(41);
    assert_eq!(reached.done(std::slice::from_ref(&record)).remove, [record]);
}

#[test]
fn nothing_is_done_with_before_the_target_was_opened() {
    assert_eq!(
        Reached { stored: Lsn(99), ..Reached::default() }.done(&[skip(20)]),
        Done::default()
    );
}

#[tokio::test]
async fn what_is_kept_to_changes_when_it_is_adopted() {
    let (mut control, tell) = Control::fixed(Rules::default(), Duration::ZERO);
    control.look().await.unwrap();
    assert!(!control.is_changed() && !control.is_paused());
    tell(Rules { pauses: [None].into(), ..Rules::default() });
    control.changed().await;
    assert!(!control.is_paused(), "not before it is adopted");
    assert!(control.adopt() && control.is_paused() && !control.is_changed());
    tell(Rules::default());
    control.changed().await;
    assert!(!control.adopt(), "less is forbidden");
}

//! The control file and the data directory's lock.

use std::path::Path;

use rdb_log::{Control, ControlError, DataState};
use rdb_protocol::{Epoch, Index, NodeName};

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn open(dir: &Path) -> Result<Control, ControlError> {
    Control::open_or_create(dir, name("orders-0"))
}

fn promise(control: &mut Control, epoch: u64) {
    control.update(|state| state.promise.epoch = Epoch(epoch)).unwrap();
}

#[test]
fn what_was_promised_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    let incarnation = control.state().incarnation;
    assert_eq!(control.state().data, DataState::Empty);
    promise(&mut control, 7);
    control.update(|state| state.data = DataState::Diverged { reason: "checksum".to_owned() }).unwrap();
    control.update(|state| state.committed = Index(12)).unwrap();
    let state = control.state().clone();
    drop(control);
    let control = open(dir.path()).unwrap();
    assert_eq!(control.state(), &state);
    assert_eq!(control.state().incarnation, incarnation);
}

#[test]
fn an_ended_incarnation_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    promise(&mut control, 7);
    let before = control.state().member();
    let fresh = control.end_incarnation().unwrap();
    assert_ne!(before, control.state().member());
    drop(control);
    let control = open(dir.path()).unwrap();
    assert_eq!((control.state().incarnation, control.state().promise.epoch), (fresh, Epoch(7)));
}

#[test]
fn two_processes_never_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let control = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(ControlError::Locked(_))));
    drop(control);
    open(dir.path()).unwrap();
}

#[test]
fn a_directory_belongs_to_one_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let other = Control::open_or_create(dir.path(), name("orders-1"));
    assert!(matches!(other, Err(ControlError::OtherNode { .. })));
}

#[test]
fn a_copied_volume_is_another_member_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let on = |node: &str, volume: &str| Control::open_on_volume(dir.path(), name(node), Some(volume));
    let mut control = on("orders-0", "one").unwrap();
    promise(&mut control, 7);
    control.update(|state| state.acknowledged = Index(12)).unwrap();
    let before = control.state().clone();
    drop(control);
    assert_eq!(on("orders-0", "one").unwrap().state(), &before, "the same volume changes nothing");
    assert!(matches!(on("orders-1", "one"), Err(ControlError::OtherNode { .. })));
    let copy = on("orders-1", "two").unwrap().state().clone();
    assert_ne!(copy.incarnation, before.incarnation);
    assert_eq!((copy.name.as_str(), copy.promise.epoch, copy.acknowledged), ("orders-1", Epoch(7), Index::ZERO));
    assert!(copy.copied);
    // On disk, and until somebody has judged the content.
    assert_eq!(on("orders-1", "two").unwrap().state(), &copy);
    // A restored volume keeps its name.
    assert_ne!(on("orders-1", "one").unwrap().state().incarnation, copy.incarnation);
}

#[test]
fn a_directory_without_a_volume_id_takes_one_up() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(dir.path()).unwrap().state().clone();
    let control = Control::open_on_volume(dir.path(), name("orders-0"), Some("one")).unwrap();
    assert_eq!((control.state().incarnation, control.state().copied), (before.incarnation, false));
    drop(control);
    // Started by hand, without one.
    assert_eq!(open(dir.path()).unwrap().state().volume.as_deref(), Some("one"));
}

#[test]
fn data_without_its_promises_is_refused() {
    for data in ["log", "db"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(data)).unwrap();
        assert!(matches!(open(dir.path()), Err(ControlError::Missing(_))));
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    promise(&mut control, 7);
    drop(control);
    let path = dir.path().join("control");
    let good = std::fs::read(&path).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for at in 0..used {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        let error = open(dir.path()).unwrap_err();
        match at {
            0..8 => assert!(matches!(error, ControlError::Foreign(_)), "{at}: {error}"),
            8..12 => assert!(matches!(error, ControlError::NewerVersion { .. }), "{at}: {error}"),
            _ => assert!(matches!(error, ControlError::Corrupt { .. }), "{at}: {error}"),
        }
        std::fs::write(&path, &good[..at]).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, ControlError::Corrupt { .. } | ControlError::Foreign(_)), "{at}: {error}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(dir.path()).unwrap().state().promise.epoch, Epoch(7));
}

#[test]
fn a_replacement_that_a_crash_interrupted_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    promise(&mut control, 7);
    drop(control);
    // Written in part, not yet renamed.
    std::fs::write(dir.path().join("control.spare"), vec![b'x'; 200_000]).unwrap();
    let mut control = open(dir.path()).unwrap();
    assert_eq!(control.state().promise.epoch, Epoch(7));
    promise(&mut control, 8);
    drop(control);
    assert_eq!(open(dir.path()).unwrap().state().promise.epoch, Epoch(8));
}

#[test]
fn a_change_that_changes_nothing_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    promise(&mut control, 7);
    let path = dir.path().join("control");
    std::fs::remove_file(&path).unwrap();
    promise(&mut control, 7);
    assert!(!path.exists());
}

#[test]
fn a_change_that_could_not_be_written_did_not_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = open(dir.path()).unwrap();
    promise(&mut control, 7);
    let spare = dir.path().join("control.spare");
    std::fs::remove_file(&spare).unwrap();
    std::fs::create_dir(&spare).unwrap();
    assert!(matches!(control.update(|state| state.promise.epoch = Epoch(8)), Err(ControlError::Io { .. })));
    assert_eq!(control.state().promise.epoch, Epoch(7));
    std::fs::remove_dir(&spare).unwrap();
    promise(&mut control, 9);
    assert_eq!(control.state().promise.epoch, Epoch(9));
}

//! Scripted scenarios: each file in `scenarios/` is one behaviour, named after what it shows or forbids. The commands are in
//! [`script`]. After a change on purpose, `UPDATE_GOLDENFILES=1 cargo test` rewrites them; then read the difference.

mod harness;
#[allow(unreachable_pub)]
mod script;

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test] fn $name() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/", stringify!($name));
            goldenscript::run(&mut script::Script::default(), path).unwrap();
        })*

        #[test]
        fn every_file_is_run() {
            let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios")).unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            let mut run = vec![$(stringify!($name)),*];
            run.sort();
            assert_eq!(files, run);
        }
    };
}

scenarios! {
    rule03_no_commit_without_the_leaders_own_flush
}

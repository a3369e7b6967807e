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
    a_commit_is_announced_at_once
    a_follower_behind_the_log_is_told_to_seed
    a_follower_catches_up_while_writes_go_on
    a_follower_that_reconnects_goes_on_where_it_was
    a_full_disk_delays_epoch_start
    a_full_disk_of_a_follower_is_tried_again
    a_full_disk_of_the_leader_sends_nothing
    a_lost_message_is_sent_again
    a_stranger_is_disconnected_and_not_believed
    all_nodes_restart_and_nobody_leads_from_disk
    followers_greet_a_leader_that_is_elected_again
    no_record_comes_between_a_slot_and_its_proposal
    rule03_no_commit_without_the_leaders_own_flush
    rule03_only_members_of_k_count
    rule05_a_lower_epoch_is_refused_and_told_the_promise
    rule05_a_promise_survives_a_crash
    rule05_an_append_raises_the_promise_on_disk_first
    rule05_an_epoch_has_one_leader
    rule06_a_fenced_leader_commits_nothing_more
    rule06_fence_answers_only_after_the_flush
    rule08_an_epoch_with_a_leader_recruits_nobody
    rule09_no_promotion_without_the_promise
    rule09_no_second_promotion_to_the_same_epoch
    rule10_a_late_append_cuts_nothing
    rule10_a_permitted_loss_archives_and_asks_for_a_seed
    rule10_cuts_only_from_the_first_record_that_differs
    rule10_halts_rather_than_cut_a_committed_record
    rule10_no_append_after_a_record_that_differs
    rule11_an_acknowledgement_of_another_history_does_not_count
    rule11_no_acknowledgement_before_the_flush
    rule11_what_a_follower_says_it_has_is_no_acknowledgement
    rule12_nothing_unverified_is_applied
    rule13_opens_only_when_epoch_start_is_applied
    rule13_records_of_an_older_epoch_commit_only_through_epoch_start
    rule15_a_change_that_is_given_up_uses_its_number_up
    rule15_a_dead_member_is_taken_out_when_w_cannot_be_met
    rule15_a_member_that_is_behind_is_not_added
    rule15_a_new_leader_counts_under_both_configs
    rule15_an_end_that_is_no_part_of_the_change_is_refused
    rule15_reported_only_when_the_config_record_is_committed
    rule15_settled_only_once_per_version
    rule15_while_both_configs_stand_either_commits
    rule16_a_fence_ends_the_lease
    rule16_a_lease_counts_from_sending
    rule16_a_new_leader_waits_for_older_leases
    rule16_a_restart_counts_as_an_answer
    rule16_late_answers_renew_little
    rule16_settling_drops_a_lease_that_the_kept_config_did_not_earn
    rule16_the_shortcut_needs_a_leader_that_had_opened
    rule17_a_cluster_of_one_needs_no_lease
    rule17_an_answer_to_an_old_request_is_worth_little
    rule17_async_without_a_lease_acknowledges_nothing
    rule17_without_the_operator_all_others_must_answer
    rule18_a_disk_that_forgot_is_not_started_from
    staleness_counts_from_the_probe_that_a_leader_with_a_lease_answered
    stopped_writes_resume_at_the_deadline
}

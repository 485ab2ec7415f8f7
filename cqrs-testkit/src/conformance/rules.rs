//! All rules, with the clause of the contract that each of them quotes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::kit::{Check, Need, World};
use super::{
    append, cancel, collections, documents, facts, guards, inline, keys, limits, model, races, reads,
    records, reservations, resets, rewound, snapshots, strings, wait,
};

/// One clause of the contract, and the attempt to break it.
pub struct Rule {
    /// What the clause is about.
    pub topic: &'static str,
    /// The rule's name, unique in the suite.
    pub name: &'static str,
    /// The clause, in one sentence.
    pub clause: &'static str,
    pub(super) needs: &'static [Need],
    pub(super) check: fn(World) -> Pin<Box<dyn Future<Output = Check> + Send>>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({}: {})", self.topic, self.name)
    }
}

impl Rule {
    /// Whether the rule is about read stores.
    #[must_use]
    pub fn is_about_documents(&self) -> bool {
        self.needs.contains(&Need::Documents) || self.needs.contains(&Need::Inline)
    }

    /// Whether the rule is only for logs with several partitions.
    #[must_use]
    pub fn is_about_partitions(&self) -> bool {
        self.needs.contains(&Need::Partitions)
    }
}

/// Writes down the rules, and the macro that makes a test of each. The `$` comes from outside, as
/// the macro that is defined here needs one of its own.
macro_rules! rules {
    ($d:tt $($topic:ident { $($name:ident [$($need:ident),*] $clause:literal;)* })*) => {
        /// The rules of the suite.
        pub const RULES: &[Rule] = &[$($(
            Rule {
                topic: stringify!($topic),
                name: stringify!($name),
                clause: $clause,
                needs: &[$(Need::$need),*],
                check: |world| Box::pin($topic::$name(world)),
            },
        )*)*];

        /// Makes a test of each rule of the [conformance suite](crate::conformance), for the
        /// [`Setup`](crate::conformance::Setup) that the expression gives.
        #[macro_export]
        macro_rules! conformance_tests {
            ($d setup:expr) => {
                $($(
                    #[test]
                    fn $name() {
                        $d crate::conformance::run_rule($d setup, stringify!($name));
                    }
                )*)*
            };
        }
    };
}

rules! { $
    append {
        events_of_one_append_appear_together []
            "All events of an append become visible together, to all readers, or none does.";
        events_of_several_streams_appear_together [SeveralStreams]
            "All events of an append to several streams become visible together, or none does.";
        events_keep_the_order_of_the_append []
            "The positions of an append's events follow each other in the order given.";
        no_append_comes_between_the_events_of_another []
            "The positions of an append's events follow each other without another append's between them.";
        versions_count_from_one_without_gaps []
            "The events of a stream have the versions 1, 2, 3, … without gaps or repeats.";
        positions_are_in_the_order_of_commits []
            "Within a partition the order of positions is the order of commits.";
        positions_have_no_gaps [Gapless]
            "A store whose positions are gapless says so, and they start at 1.";
        an_append_says_where_it_wrote []
            "An append gives the log's id, the partition, the position of its last event and the streams' versions.";
        an_append_to_several_streams_counts_versions_for_each [SeveralStreams]
            "Versions count on per stream in the order given, and are told by first appearance.";
        other_handles_see_what_was_appended [SecondHandle]
            "Appended events are visible to every read that starts later, on any handle of the same store.";
        an_empty_append_only_checks_its_guard []
            "An append without events and without a key checks its guard and writes nothing.";
        an_event_id_is_used_once [SeveralStreams]
            "An event whose id the log has already gives Invalid; nothing is written.";
        an_event_id_comes_once_in_an_append []
            "An event id that comes twice in one append gives Invalid; nothing is written.";
        an_event_id_is_used_once_in_all_partitions [Partitions]
            "An event whose id the log has already, in any partition, gives Invalid.";
        a_refused_append_leaves_nothing []
            "A guard that fails gives a conflict and nothing is written.";
        a_refused_append_leaves_no_tags [Tags]
            "A guard that fails gives a conflict and nothing is written, no tag either.";
    }
    facts {
        ids_names_and_schema_versions_are_kept []
            "What is appended is handed back as it was: id, stream, name, schema version.";
        payloads_are_kept_byte_for_byte []
            "What is appended is handed back as it was: the payload byte for byte.";
        times_are_kept_to_the_microsecond []
            "What is appended is handed back as it was: the time, to the microsecond.";
        tags_are_kept []
            "What is appended is handed back as it was: the tags, indexed or not.";
        metadata_is_kept []
            "What is appended is handed back as it was: the metadata.";
        a_fold_is_lent_what_it_needs []
            "A fold is lent version, position, name, schema version and payload of each event.";
    }
    guards {
        no_stream_is_expected []
            "`NoStream`: the stream has no events.";
        a_version_is_expected []
            "`Version`: the stream's last event has this version.";
        a_last_event_is_expected [EventGuards]
            "`Event`: the stream's last event has this version and this id.";
        version_none_means_no_stream []
            "`Version` of `Version::NONE` means the same as `NoStream`.";
        a_stream_is_expected_to_exist []
            "`Exists`: the stream has at least one event.";
        any_stream_is_expected []
            "`Any`: nothing is expected of the stream.";
        a_stream_is_guarded_that_is_not_written [SeveralStreams]
            "A guard may speak of a stream that the append does not write to.";
        a_conflict_names_the_stream_and_its_version []
            "A conflict has the clause that did not hold, and the version that the stream has.";
        a_conflict_names_the_query_and_the_last_match []
            "A conflict has the clause that did not hold, and the position of the last event that matches.";
        nothing_of_these_names_is_new []
            "`Unchanged`: no event with one of the names lies behind the position.";
        nothing_with_this_tag_is_new [Tags]
            "`Unchanged`: no event with the tag lies behind the position.";
        what_lies_at_the_position_is_not_new []
            "`Unchanged`: what lies at the position does not count, what lies behind it does.";
        all_is_new_behind_the_start []
            "`Unchanged` behind `Position::START` counts all events.";
        nothing_of_this_name_is_there []
            "`Absent`: no event with the name is there at all.";
        nothing_with_this_tag_is_there [Tags]
            "`Absent`: no event with the tag is there at all.";
        an_item_wants_a_name_and_all_tags [Tags]
            "An item is one of these names, and all of these tags.";
        one_of_several_items_is_enough []
            "A query is for the events that match at least one item.";
        a_query_without_items_matches_nothing []
            "A query without items matches no event.";
        a_query_for_all_matches_everything []
            "`Query::all` matches every event.";
        an_append_does_not_stand_in_its_own_way []
            "Events of the append itself do not count against its guard.";
        all_clauses_must_hold []
            "`All`: every clause holds; the conflict names one that does not, never an `All`.";
        no_clause_always_holds []
            "An empty `All` always holds, as `Any` does.";
        a_guard_looks_at_the_partition_of_the_append [Partitions]
            "Only events in the partition of the append count for its guard.";
        an_append_across_partitions_is_refused [Partitions]
            "An append whose streams lie in several partitions is refused as Unsupported, by name.";
        tags_are_refused_where_there_are_none [NoTags]
            "A store without tags refuses queries for tags as Unsupported, by name; it never ignores them.";
        several_streams_are_refused_where_they_cannot_be_had [OneStream]
            "A store that appends to one stream at a time refuses several as Unsupported, by name.";
    }
    keys {
        a_second_append_gives_what_the_first_gave []
            "An append with a key that is there already does not write, and gives what the first append gave.";
        a_key_comes_back_with_its_owner []
            "`Append::owner` is recorded with the key, and returned as it was by a second append and by `find_key`.";
        the_key_is_checked_before_the_guard []
            "The key is checked before the guard.";
        keys_of_other_streams_are_others []
            "Keys of different streams are different.";
        a_refused_append_records_no_key []
            "An append that fails records no key.";
        a_key_comes_without_events []
            "An append may have a key and no events; it gives the head and the version of the key's stream.";
        a_key_without_events_still_has_a_guard []
            "The guard of an append with a key and no events is checked.";
        a_key_can_be_looked_up []
            "`find_key` gives what the append with this key gave, if there was one.";
        a_key_is_there_as_soon_as_its_events_are []
            "A key is recorded in the same commit as the events.";
        racing_appends_with_one_key_write_once []
            "Of any number of racing appends with one key, one writes, and all others get what it got.";
    }
    races {
        one_of_many_gets_the_version []
            "Of racing appends that expect one version of a stream, exactly one is accepted.";
        one_of_many_creates_the_stream []
            "Of racing appends that expect no stream, exactly one is accepted.";
        one_of_many_takes_the_tag [Tags]
            "Of racing appends that expect one tag to be absent, exactly one is accepted.";
        one_of_many_goes_on_from_the_position []
            "The guard is checked against the state that the events are then appended to.";
        one_of_many_passes_all_clauses [Tags, SeveralStreams]
            "All clauses of a guard are checked against the state that the events are then appended to.";
        tag_guards_see_appends_without_guards [Tags]
            "No other append may come between a guard's check and the events, whatever its own guard is.";
        a_reader_by_position_misses_nothing []
            "A reader that has seen position p never finds a new event at or below p.";
        events_and_head_are_of_one_snapshot []
            "A read of the log gives the head in the same snapshot: all that matches up to `read_to` is there.";
        a_stream_and_its_version_are_of_one_snapshot []
            "A read of a stream gives the stream's version in the same snapshot.";
        nothing_is_lost_among_many_writers []
            "Every accepted append is there, at the version and position that it was told.";
    }
    reads {
        a_stream_is_read_forward []
            "A stream is read by version, ascending, from the version asked for, and without gaps.";
        a_stream_is_read_backward []
            "A stream is read by version, descending, from the last event if it starts behind it.";
        a_stream_is_read_up_to_the_limit []
            "A read of a stream gives at most `limit` events, and at least one if there is one.";
        a_fold_goes_to_a_streams_end []
            "A fold is lent all events of a stream, by version, ascending, however many there are.";
        a_fold_begins_at_a_version []
            "A fold is lent the events from the version asked for; behind the last one there are none.";
        a_fold_breaks_off []
            "A fold that breaks off is lent nothing more.";
        nothing_is_read_behind_a_streams_end []
            "Behind the last event of a stream there are none.";
        a_missing_stream_is_empty []
            "Reading a stream that does not exist gives no events and `Version::NONE`.";
        a_read_tells_the_streams_version []
            "A read of a stream gives the stream's version, whichever part was read.";
        the_log_is_read_between_two_positions []
            "A read of the log gives the events behind `after`, up to and with `up_to`.";
        the_log_is_read_up_to_the_limit []
            "A read of the log gives at most `limit` events, the first ones.";
        paging_through_the_log_ends_and_misses_nothing []
            "`read_to` says how far was looked, and moves forward unless there is nothing left.";
        names_that_take_turns_are_read_in_pages []
            "A read of the log gives the events with one of the names, by position, without omissions, also in pages.";
        a_read_ends_no_further_than_asked []
            "`read_to` lies between `after` and `up_to`, or at `after` if it lies behind that.";
        the_log_is_filtered_by_names []
            "A read of the log gives the events with one of the names, by position, without omissions.";
        the_log_is_filtered_by_tags [Tags]
            "A read of the log gives the events with all of the tags, by position, without omissions.";
        the_log_is_filtered_by_items [Tags]
            "A read of the log gives each event that matches at least one item, once.";
        a_partition_that_is_not_there_is_refused []
            "Reading a partition that does not exist gives Invalid.";
        the_head_is_the_last_position []
            "The head is the position of the last event, or `Position::START`.";
        a_position_comes_with_its_event [Gapless]
            "Heads, reads and appends name the event at their position, whether or not it matches a query.";
        a_log_has_one_id []
            "A log has an id of its own, kept for as long as the log's history is.";
        another_log_has_another_id []
            "A log's id is made at random when it is created.";
        a_log_keeps_its_id [SecondHandle]
            "Every handle of a log tells the same id.";
        each_event_lies_in_the_partition_of_its_stream [Partitions]
            "A stream lives in one partition, and its events say in which.";
        partitions_have_positions_of_their_own [Partitions]
            "Every event has a position in its partition, and is read with that partition.";
        a_stream_stays_in_its_partition [SecondHandle]
            "The partition of a stream is the same in every process that has opened the log.";
    }
    limits {
        a_batch_may_have_so_many_events []
            "`Limits::batch_events`: one more gives Invalid, with a message that names the limit.";
        an_append_may_have_so_many_bytes []
            "`Limits::append_bytes`: one more in all events gives Invalid, with a message that names the limit.";
        a_payload_may_be_so_long []
            "`Limits::payload_bytes`: one more gives Invalid, with a message that names the limit.";
        metadata_may_be_so_long []
            "`Limits::metadata_bytes`: one more gives Invalid, with a message that names the limit.";
        an_event_name_may_be_so_long []
            "`Limits::name_bytes`: one more gives Invalid, with a message that names the limit.";
        a_stream_id_may_be_so_long []
            "`Limits::stream_bytes`: one more gives Invalid, with a message that names the limit.";
        an_event_may_have_so_many_tags []
            "`Limits::tags`: one more gives Invalid, with a message that names the limit.";
        a_tag_may_be_so_long []
            "`Limits::tag_bytes`: one more gives Invalid, with a message that names the limit.";
        a_key_may_be_so_long []
            "`Limits::key_bytes`: one more gives Invalid, with a message that names the limit.";
        an_invalid_append_leaves_nothing []
            "If an append breaks a limit, nothing is written, and no key is recorded.";
        limits_are_checked_before_the_guard []
            "Limits are checked before anything else.";
        an_event_has_a_name_and_a_schema_version []
            "An event without a name or with the schema version 0 gives Invalid.";
        no_text_has_a_nul []
            "U+0000 in a text of an append, its guard included, gives Invalid, with a message that names it.";
        what_has_a_nul_is_not_there []
            "A read of a text with U+0000 finds nothing.";
    }
    strings {
        streams_with_unusual_ids_are_apart []
            "A stream's id may hold anything that UTF-8 can; ids that differ in a byte are different streams.";
        categories_are_apart []
            "Categories that differ in a byte are different.";
        long_stream_ids_differ_in_their_last_letter []
            "Stream ids are compared in their whole length.";
        unusual_event_names_are_apart []
            "Event names that differ in a byte are different.";
        unusual_tags_are_apart [Tags]
            "Tags that differ in a byte are different.";
        unusual_keys_are_apart []
            "Keys that differ in a byte are different.";
        unusual_metadata_is_kept []
            "Metadata hold anything that UTF-8 can.";
    }
    wait {
        waiting_for_what_is_there_ends_at_once []
            "`wait` returns at once if the head lies behind the position already.";
        waiting_ends_with_an_append []
            "`wait` returns in bounded time once the head lies behind the position.";
        all_who_wait_are_woken []
            "Each of several that wait returns in bounded time.";
        a_dropped_wait_has_no_effect []
            "Any future may be dropped at any point; dropping one that waits has no effect.";
        waiting_is_for_one_partition [Partitions]
            "`wait` looks at the head of the partition that was asked for.";
        a_closed_log_opens_again []
            "Closing is not the end: a later call opens again what it needs, and closing twice is no fault.";
    }
    cancel {
        a_dropped_append_is_whole_or_nothing []
            "A dropped append either took place as a whole or not at all.";
        nothing_hangs_after_a_dropped_append []
            "After a dropped append, later calls do not hang.";
        a_dropped_append_is_resolved_by_its_key []
            "After a dropped append, its key tells whether it took place.";
        a_dropped_read_has_no_effect []
            "Dropping a read has no effect.";
        reads_that_are_left_alone_keep_nobody_waiting []
            "A read that was begun and is not polled keeps no other call from completing.";
    }
    snapshots {
        a_snapshot_is_kept_as_it_was [Snapshots]
            "A snapshot is handed back as it was saved: log, version, position, fingerprint, and the state byte for byte.";
        a_snapshot_names_its_last_event [Snapshots]
            "A snapshot is handed back with the id of its last event; a save at the same version replaces it.";
        a_snapshot_is_for_its_fingerprint [Snapshots]
            "A snapshot is given only to who asks for the fingerprint that it was saved with.";
        a_stream_has_one_snapshot [Snapshots]
            "A stream has at most one snapshot; a save replaces one of another fingerprint or log, whatever the versions.";
        an_older_snapshot_replaces_nothing [Snapshots]
            "Of the same fingerprint and log, a save replaces the same or an older version, and never a newer one.";
        snapshots_of_other_streams_are_others [Snapshots]
            "Snapshots of streams that differ in a byte are different snapshots.";
        a_snapshot_is_forgotten [Snapshots]
            "Forgetting takes a stream's snapshot away, and no other's; that there was none is no fault.";
        a_snapshot_is_no_append [Snapshots]
            "Saving a snapshot moves no head and makes no stream exist.";
        a_snapshot_may_be_so_long [Snapshots]
            "A snapshot that breaks the limit on its state is refused with the limit's name; what was there stays.";
        a_snapshot_of_nothing_is_refused [Snapshots]
            "A snapshot at the version before the first event is refused.";
        nothing_hangs_after_a_dropped_save [Snapshots]
            "After a save of a snapshot that was dropped, later calls do not hang.";
        snapshots_are_refused_where_there_are_none [NoSnapshots]
            "A store that keeps no snapshots gives none, and refuses by name to save one.";
    }
    rewound {
        a_lost_event_is_not_expected [Backup, SecondHandle, EventGuards]
            "`Event`: an append that expects an event that the log has lost is a conflict, whatever is there instead.";
        nothing_is_unchanged_after_a_lost_event [Backup, SecondHandle]
            "`Unchanged`: if the event at the position is another one, or none is there, the append is a conflict.";
        a_lost_key_is_free [Backup, SecondHandle]
            "A key is recorded in the same commit as the events, and is lost with them.";
        no_call_falls_short_of_a_reported_head [Backup, SecondHandle]
            "If the log ends before a head that a handle has reported, every later call on the handle fails as Corrupt.";
        a_position_comes_with_the_event_that_is_there [Backup, SecondHandle]
            "Every position that a store reports comes with the id of the event there, whether or not it matches.";
        a_restored_log_is_read_as_it_is [Backup, SecondHandle]
            "Reads give the events that the log has, not those that a handle has seen before the log was rewound.";
        a_batch_of_a_lost_checkpoint_is_fenced [Backup, SecondHandle, Documents]
            "A batch that starts from a checkpoint of a lost event is fenced, also if the epoch and the position agree.";
    }
    reservations {
        others_wait_for_a_reservation [Reservations]
            "From when a reservation is given until its append has ended, no other append to the partition is written.";
        other_handles_wait_for_a_reservation [Reservations, SecondHandle]
            "A reservation keeps the appends of all handles out.";
        what_is_read_in_a_reservation_stays [Reservations]
            "What is read in a reservation is still so when its append is checked.";
        a_reserved_append_is_like_any_other [Reservations]
            "The append of a reservation is one like any other, and so are its guard and its key.";
        a_dropped_reservation_lets_others_append [Reservations]
            "A reservation that is dropped lets others append, at whatever point it is.";
        a_reservation_comes_beside_writers [Reservations]
            "Whoever asks for a reservation while others append gets it in bounded time.";
        nothing_is_reserved_where_it_cannot_be [NoReservations]
            "A store without reservations gives none.";
    }
    documents {
        a_new_consumer_has_no_checkpoint [Documents]
            "There is no checkpoint if the consumer has not committed yet.";
        each_claim_raises_the_epoch [Documents]
            "A claim raises the consumer's epoch.";
        racing_claims_get_epochs_of_their_own [Documents]
            "Of any number of racing claims, each gets an epoch of its own.";
        a_claim_gives_the_checkpoint [Documents]
            "A claim gives the stored checkpoints, by partition.";
        a_checkpoint_is_kept [Documents]
            "A checkpoint is handed back as it was committed: log, position and event.";
        a_former_owner_is_fenced [Documents]
            "A batch is accepted only if its epoch is still the one that the claim gave.";
        a_moved_checkpoint_fences [Documents]
            "A batch is accepted only if the stored checkpoint is still the one that it starts from.";
        who_never_claimed_is_fenced [Documents]
            "A batch of a consumer that was never claimed is fenced.";
        a_fenced_batch_writes_nothing [Documents]
            "A batch that is fenced writes nothing.";
        documents_and_checkpoint_move_together [Documents]
            "All writes of a batch and its checkpoint become visible together.";
        racing_batches_move_the_checkpoint_once [Documents]
            "Of racing batches that start from one checkpoint, exactly one is accepted.";
        an_epoch_is_for_all_partitions [Documents]
            "A consumer has one epoch over all partitions; a claim fences a former owner in all of them.";
        partitions_have_checkpoints_of_their_own [Documents]
            "A consumer has a checkpoint for each partition.";
        a_checkpoint_that_moved_in_another_partition_fences [Documents]
            "A batch is accepted only if the stored checkpoints of all partitions are still those that it starts from.";
        consumers_are_apart [Documents]
            "A consumer is its name; its checkpoints and epoch are its own.";
        documents_are_kept_byte_for_byte [Documents]
            "A document is handed back byte for byte; an empty one is there.";
        a_document_is_replaced [Documents]
            "A document that is written again has the new content.";
        a_document_is_removed [Documents]
            "A document that is removed is there no more; removing one that is not there is no fault.";
        documents_come_in_the_order_of_the_keys [Documents]
            "`get` gives the documents in the order of the keys asked for, and a place for each that is missing.";
        documents_are_listed_by_the_bytes_of_the_key [Documents]
            "`range` returns entries in the order of the bytes of their keys.";
        documents_are_listed_in_pages [Documents]
            "`range` returns the entries after a key, and fewer than the limit only if the range has no more.";
        documents_of_other_consumers_are_apart [Documents]
            "Two consumers never share an entry.";
        documents_with_unusual_keys_are_apart [Documents]
            "Keys that differ in a byte are different documents.";
        no_name_of_a_document_has_a_nul [Documents]
            "U+0000 in the name of a consumer or the key of a document gives Invalid; a read of it finds nothing.";
        documents_have_the_same_limits_everywhere [Documents]
            "A name, a key or a document at its limit is accepted; one byte more gives Invalid with a message that names the limit, and writes nothing.";
        other_handles_see_what_is_committed [Documents, SecondHandle]
            "A read that starts after a commit sees it, and a claim fences, on any handle of the same store.";
        a_dropped_commit_is_whole_or_nothing [Documents]
            "A dropped commit took place as a whole or not at all.";
        nothing_hangs_after_a_dropped_commit [Documents]
            "After a dropped commit, later calls do not hang.";
        handlers_for_another_database_are_refused [Documents]
            "A store refuses handlers that are written for another database as Unsupported, by name.";
    }
    collections {
        collections_of_a_consumer_are_apart [Documents, Collections]
            "An entry is in its collection, and in no other.";
        several_collections_change_in_one_commit [Documents, Collections]
            "Entries of one batch are seen together or not at all, in all collections that a read covers.";
        a_fenced_batch_changes_no_collection [Documents, Collections]
            "A fenced batch writes nothing, in any collection.";
        keys_of_entries_may_have_any_bytes [Documents, Collections]
            "Keys of collections other than documents may have any bytes.";
        entries_are_in_the_order_of_key_bytes [Documents, Collections]
            "`range` returns entries in the order of the bytes of their keys.";
        a_range_has_bounds [Documents, Collections]
            "A range has the entries between its lowest and its highest key, which it includes or excludes.";
        a_range_is_read_backward [Documents, Collections]
            "A range that is read backward starts at its highest key.";
        a_count_is_that_of_the_range [Documents, Collections]
            "`count` returns how many entries the same range read returns.";
        names_and_keys_of_entries_have_the_same_limits_everywhere [Documents, Collections]
            "The name of a collection, the key of an entry and its content have limits; past one, a batch gives Invalid and writes nothing.";
        an_inline_append_changes_several_collections [Inline, Collections]
            "An inline projection reads and changes entries of several collections in the append's commit.";
        collections_are_refused_where_there_are_none [Documents, NoCollections]
            "A store with documents only refuses a batch with another collection as Unsupported, by name.";
    }
    records {
        a_new_consumer_has_no_record [Documents, Records]
            "A consumer of which nothing was recorded has a record of revision 0 without content.";
        a_record_is_kept [Documents, Records]
            "A record is handed back as it was set, and each change raises its revision by one.";
        a_record_of_another_revision_replaces_nothing [Documents, Records]
            "A record is set only if its revision is still the expected one; otherwise nothing changes.";
        racing_records_have_one_winner [Documents, Records]
            "Of any number of racing changes that expect one revision, exactly one is made.";
        a_changed_record_fences [Documents, Records]
            "A change of a record fences every batch of an owner that claimed the consumer before.";
        a_claim_gives_the_revision [Documents, Records]
            "A claim gives the revision of the record that belongs to its epoch.";
        a_record_moves_nothing [Documents, Records]
            "A change of a record changes no checkpoint and no document.";
        consumers_have_records_of_their_own [Documents, Records]
            "A consumer is its name; its record is its own, and a name with U+0000 gives Invalid.";
        other_handles_see_a_record [Documents, Records, SecondHandle]
            "A read that starts after a record was set sees it, on any handle of the same store.";
        records_are_refused_where_there_are_none [Documents, NoRecords]
            "A read store that keeps no records gives none, and refuses by name to set one.";
    }
    resets {
        a_reset_removes_what_a_consumer_has [Documents]
            "A reset removes a consumer's checkpoints, the content of its record, and the documents of its collection.";
        a_reset_fences_the_owner [Documents]
            "A reset raises the epoch: every batch of a former owner is fenced, and no epoch comes twice.";
        a_reset_changes_no_other_consumer [Documents]
            "A reset changes no other consumer and no other collection.";
        a_reset_raises_the_revision [Documents, Records]
            "A reset raises the revision of the consumer's record, so that appends that expect the former one are refused.";
    }
    inline {
        an_inline_effect_is_there_with_its_append [Inline]
            "What an inline projection makes of an append's events is written, and its checkpoint is at the append's last position.";
        events_and_inline_effect_appear_together [Inline]
            "The effect of an inline projection is part of the append's commit.";
        inline_projections_get_events_as_they_are_read [Inline]
            "An inline projection gets the events as they are going to be read.";
        inline_projections_get_what_matches [Inline]
            "An inline projection gets those of the append's events that match its query, in their order.";
        an_inline_checkpoint_moves_if_no_event_matches [Inline]
            "The checkpoint of an inline projection moves also if no event matched.";
        an_append_without_events_asks_no_inline_projection [Inline]
            "An append without events moves no inline projection, and is not held by one.";
        an_inline_projection_that_is_behind_holds_the_append [Inline]
            "An inline projection's checkpoint lies at the head before the append; if it does not, the append gives Behind.";
        an_append_applies_what_an_inline_projection_has_missed [Inline]
            "An append applies what an inline projection has missed, as far as its gap allows; what it cannot apply gives Behind.";
        a_checkpoint_of_another_log_is_behind [Inline]
            "An inline projection's checkpoint is of this log; one of another log gives Behind, wherever it lies.";
        a_checkpoint_of_another_event_is_behind [Inline]
            "An inline projection's checkpoint has the event at the head; one with another event there gives Behind.";
        an_append_that_is_held_leaves_nothing [Inline]
            "An append that gives Behind writes nothing, and records no key.";
        an_event_that_does_not_fit_refuses_the_append [Inline]
            "If an inline projection cannot take an event, the append gives Unfit with its name and what it says.";
        an_append_that_does_not_fit_leaves_nothing [Inline]
            "An append that gives Unfit writes nothing; its key and the ids of its events are free.";
        several_inline_projections_move_together [Inline]
            "Of several inline projections, which are asked in turn, all take the append or none does.";
        inline_projections_are_asked_last [Inline]
            "The inline projections are asked after limits, key, guard and event ids were checked.";
        a_refused_append_moves_no_inline_projection [Inline]
            "An append that is refused by its key, its guard, an event id or a limit moves no inline projection.";
        an_append_folds_into_what_is_stored [Inline]
            "An inline projection folds into the documents as they are, whoever wrote them.";
        racing_appends_fold_into_one_document [Inline]
            "Of racing appends, each folds into the documents as those before it leave them.";
        appends_to_several_partitions_fold_into_one_document [Inline, Partitions]
            "The documents of an inline projection are of all partitions; racing appends to several lose nothing.";
        an_append_that_does_not_fit_touches_no_other [Inline]
            "An append that an inline projection refuses does not fail or change others that are committed with it.";
        an_inline_append_fences_a_follower [Inline]
            "A batch that starts from the checkpoint before an append with the projection is fenced.";
        an_inline_append_fences_a_follower_of_another_partition [Inline, Partitions]
            "An append with the projection fences batches that do not know of it, in all partitions.";
        an_inline_append_leaves_the_epoch [Inline]
            "An append with an inline projection does not change its epoch.";
        an_inline_append_is_no_claim [Inline]
            "A batch of an inline projection that was never claimed is fenced.";
        an_inline_checkpoint_is_of_one_partition [Inline, Partitions]
            "An append asks for and moves the inline projection's checkpoint on its own partition, and no other.";
        other_handles_see_inline_effects [Inline, SecondHandle]
            "The effect of an inline projection is seen by reads that start later, on any handle of the same store.";
        a_dropped_inline_append_is_whole_or_nothing [Inline]
            "A dropped append takes place with its inline projections or not at all.";
        nothing_hangs_after_a_dropped_inline_append [Inline]
            "After a dropped append with inline projections, later calls do not hang.";
        an_inline_projection_on_another_database_is_refused [Inline]
            "An inline projection whose handlers are for another database is refused as Unsupported; nothing is written.";
        an_inline_append_that_expects_another_record_is_refused [Inline, Records]
            "An append that expects another revision of an inline projection's record is refused as StaleRecord, and writes nothing.";
        inline_projections_are_refused_where_they_cannot_be_had [NoInline]
            "A store that takes no inline projections refuses an append that brings one as Unsupported, by name.";
    }
    model {
        any_history_agrees_with_the_model []
            "Every history of appends and reads gives what the contract says, clause by clause.";
    }
}

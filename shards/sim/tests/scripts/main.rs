//! Histories told request by request, for what random ones seldom reach.

mod offsets_log;
mod removed_segment;
mod script;
mod throttled_move;

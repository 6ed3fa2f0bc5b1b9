//! DeleteTopics (key 20). Answers once the deletion is committed; the replicas go later.

use std::collections::{HashMap, HashSet};

use metadata::{TopicSelector, plan_delete_topic};
use protocol::frame::Response;
use protocol::messages::delete_topics_request::DeleteTopicsRequestData;
use protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponseData};
use protocol::messages::{ErrorCode, KafkaString, kafka_string, kafka_uuid, topic_id};
use types::TopicId;

use crate::proposals::{Proposals, Refusal, change_deadline_us};
use crate::state::State;
use crate::step::{RequestInfo, Step};

/// A topic as the request names it: by name, by id (KIP-516), or wrongly by both or neither.
type Named = (Option<KafkaString>, TopicId);

pub(crate) fn handle(state: &State, info: RequestInfo<'_>, request: DeleteTopicsRequestData) -> Step {
    let names = request.topic_names.into_iter().map(|name| (Some(name), TopicId::ZERO));
    let topics = request.topics.into_iter().map(|topic| (topic.name, topic_id(topic.topic_id)));
    let named: Vec<Named> = names.chain(topics).collect();
    // A topic may be meant twice, once by its name and once by its id.
    let mut mentions: HashMap<Named, usize> = HashMap::new();
    for named in &named {
        *mentions.entry(meant(state, named)).or_default() += 1;
    }
    let mut proposals = Proposals::new(false, change_deadline_us(info.now, request.timeout_ms));
    let mut answered = HashSet::new();
    for named in named {
        let meant = meant(state, &named);
        if !answered.insert(meant.clone()) {
            continue;
        }
        let planned = match &named {
            (None, TopicId::ZERO) => {
                Err(Refusal::new(ErrorCode::InvalidRequest, "a topic is named neither by name nor by id"))
            }
            (Some(_), id) if *id != TopicId::ZERO => {
                Err(Refusal::new(ErrorCode::InvalidRequest, "a topic is named by name and by id at once"))
            }
            _ if mentions[&meant] > 1 => {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named twice"))
            }
            (Some(name), _) => {
                plan_delete_topic(&state.image, TopicSelector::Name(name.as_str())).map_err(Refusal::from)
            }
            (None, id) => plan_delete_topic(&state.image, TopicSelector::Id(*id)).map_err(Refusal::from),
        };
        proposals.push((meant, named.0.is_some()), planned);
    }
    proposals.gather(|_, outcomes| {
        let responses = outcomes.into_iter().map(|((topic, by_name), outcome)| {
            respond(topic, outcome.map_err(|refusal| if by_name { refusal.by_name() } else { refusal }))
        });
        let responses = responses.collect();
        Step::Reply(Response::DeleteTopics(DeleteTopicsResponseData { responses, ..Default::default() }))
    })
}

/// The topic with its name and its id, where it exists.
fn meant(state: &State, named: &Named) -> Named {
    let topic = match named {
        (Some(name), TopicId::ZERO) => state.image.topic(name.as_str()),
        (None, id) => state.image.topic_by_id(*id),
        (Some(_), _) => None,
    };
    topic.map_or_else(|| named.clone(), |topic| (Some(kafka_string(&topic.name)), topic.id))
}

fn respond((name, id): Named, outcome: Result<(), Refusal>) -> DeletableTopicResult {
    let (error, message) = match outcome {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, message }) => (code, message),
    };
    DeletableTopicResult {
        name,
        topic_id: kafka_uuid(id),
        error_code: error.code(),
        error_message: message.as_deref().map(kafka_string),
        ..Default::default()
    }
}

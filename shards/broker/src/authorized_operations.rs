//! What a client may do to what it asks about, as far as it wants to know (KIP-430).

/// "Not asked for".
const OMITTED: i32 = i32::MIN;

// Operations as bits, by their codes in Kafka's AclOperation.
const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

/// What operations are done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Cluster,
    Topic,
    Group,
}

/// The field of authorized operations. Nothing restricts clients, so these are all operations that the resource
/// has, as in Kafka's `AclEntry.supportedOperations`.
pub(crate) fn authorized_operations(resource: Resource, asked_for: bool) -> i32 {
    if !asked_for {
        return OMITTED;
    }
    match resource {
        Resource::Cluster => {
            CREATE | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS | IDEMPOTENT_WRITE | ALTER | DESCRIBE
        }
        Resource::Topic => {
            READ | WRITE | CREATE | DESCRIBE | DELETE | ALTER | DESCRIBE_CONFIGS | ALTER_CONFIGS
        }
        Resource::Group => READ | DESCRIBE | DELETE | DESCRIBE_CONFIGS | ALTER_CONFIGS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that a Kafka broker without an authorizer answers.
    #[test]
    fn operations_are_those_of_kafka() {
        assert_eq!(authorized_operations(Resource::Cluster, true), 8096);
        assert_eq!(authorized_operations(Resource::Topic, true), 3576);
        assert_eq!(authorized_operations(Resource::Group, true), 3400);
        assert_eq!(authorized_operations(Resource::Topic, false), i32::MIN);
    }
}

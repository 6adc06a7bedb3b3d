//! What a configuration names twice although one alone can be meant: of two countries, receivers or systems under one name
//! the second would never be found, and nobody would be told.

use std::collections::BTreeMap;

use super::national::NationalConnector;
use super::pin::Pin;
use super::{Config, ConfigProblem};

/// Names with their first owner; each further owner is a problem that says both.
#[derive(Default)]
struct Owners {
    first: BTreeMap<String, String>,
    problems: Vec<ConfigProblem>,
}

impl Owners {
    /// `name` says what it is, as in "country FI"; `at` is the key that gives it to the owner.
    fn claim(&mut self, owner: &str, at: &str, name: String) {
        match self.first.get(&name) {
            Some(first) if first == owner => {}
            Some(first) => {
                let what = format!("{name} of {owner} is also that of {first}: one of them would never be found");
                self.problems.push(ConfigProblem::new(at, what));
            }
            None => drop(self.first.insert(name, owner.to_owned())),
        }
    }
}

impl Config {
    pub(super) fn check_twice(&self) -> Vec<ConfigProblem> {
        let mut owners = Owners::default();
        self.peers_twice(&mut owners);
        self.receivers_twice(&mut owners);
        self.systems_twice(&mut owners);
        self.paths_twice(&mut owners);
        owners.problems
    }

    /// A caller is the peer of its certificate's country, an answer that of its community. A country with several addresses
    /// has them in one `[[peer]]`.
    fn peers_twice(&self, owners: &mut Owners) {
        for (index, peer) in self.peer.iter().enumerate() {
            let owner = format!("peer[{index}] ({})", peer.name);
            let at = |key: &str| format!("peer[{index}].{key}");
            owners.claim(&owner, &at("country"), format!("country {}", peer.country));
            for home in std::iter::once(&peer.home_community_id).chain(&peer.aliases) {
                owners.claim(&owner, &at("home_community_id"), format!("community {home}"));
            }
            let Pin::Names(names) = &peer.pin else { continue };
            let uses = [&names.tls_client, &names.tls_server, &names.seal];
            // Two countries may use one common name, each under its own anchors.
            let of_one = uses.into_iter().flat_map(|names| names.iter()).filter(|name| name.is_of_one_country());
            of_one.for_each(|name| owners.claim(&owner, &at("pin"), format!("certificate {name}")));
        }
    }

    /// How far a receiver of audit records is, is kept under its kind and name.
    fn receivers_twice(&self, owners: &mut Owners) {
        let syslog: Vec<&String> = self.audit.syslog.iter().map(|receiver| &receiver.name).collect();
        let fhir: Vec<&String> = self.audit.fhir.iter().map(|receiver| &receiver.name).collect();
        for (kind, names) in [("syslog", syslog), ("fhir", fhir)] {
            for (index, name) in names.into_iter().enumerate() {
                let owner = format!("audit.{kind}[{index}]");
                owners.claim(&owner, &format!("{owner}.name"), format!("{kind} receiver {name}"));
            }
        }
    }

    /// A document is fetched where its repository id leads, an instance where its location does.
    fn systems_twice(&self, owners: &mut Owners) {
        let connectors = self.national.iter().flat_map(|national| &national.connector);
        for (index, connector) in connectors.enumerate() {
            let owner = format!("national.connector[{index}] ({})", connector.name());
            let at = |key: &str| format!("national.connector[{index}].{key}");
            owners.claim(&owner, &at("name"), format!("name {}", connector.name()));
            let (repositories, locations) = match connector {
                NationalConnector::Embedded(c) => (std::slice::from_ref(&c.repository_unique_id), &c.location_uids[..]),
                NationalConnector::DicomWeb(c) => (std::slice::from_ref(&c.repository_unique_id), &c.location_uids[..]),
                NationalConnector::Grpc(c) => (&c.repository_unique_ids[..], &c.location_uids[..]),
                NationalConnector::Xds(c) => {
                    for (key, what, listed) in
                        [("repositories", "repository", &c.repositories), ("sources", "location", &c.sources)]
                    {
                        for addressed in listed {
                            let owner = format!("{owner} at {}", addressed.endpoint);
                            owners.claim(&owner, &at(key), format!("{what} {}", addressed.id));
                        }
                    }
                    continue;
                }
            };
            for id in repositories {
                owners.claim(&owner, &at("repository_unique_id"), format!("repository {id}"));
            }
            for id in locations {
                owners.claim(&owner, &at("location_uids"), format!("location {id}"));
            }
        }
    }

    /// What a consumer asks for follows from the path. At the peers' port the action says it, so that one path may serve
    /// several transactions.
    fn paths_twice(&self, owners: &mut Owners) {
        let Some(consumer) = &self.consumer else { return };
        for (key, paths) in [
            ("query_paths", &consumer.query_paths),
            ("retrieve_paths", &consumer.retrieve_paths),
            ("imaging_paths", &consumer.imaging_paths),
            ("trc_paths", &consumer.trc_paths),
            ("nok_paths", &consumer.nok_paths),
        ] {
            let owner = format!("consumer.{key}");
            paths.iter().for_each(|path| owners.claim(&owner, &owner, format!("path {path}")));
        }
    }
}

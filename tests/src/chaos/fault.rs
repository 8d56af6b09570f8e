//! Faults happen to a [`Rig`] whose connections all go through proxies.

use std::thread;

use super::plan::{Kind, Planned, Who};
use crate::process::{Process, Signal};
use crate::proxy::{End, Proxy};
use crate::rig::{DATABASE, Rig};

/// Bytes per second of a slow connection, in each direction.
const SLOW: u64 = 16 * 1024;

/// A proxy before each server.
pub struct Proxies {
    source: Proxy,
    standby: Proxy,
    clickhouse: Proxy,
}

impl Proxies {
    /// Leads the sidecar's connections through proxies. To be called before it is launched.
    pub fn before(rig: &mut Rig) -> Proxies {
        let proxies = Proxies {
            source: Proxy::start(rig.source.port()),
            standby: Proxy::start(rig.standby.port()),
            clickhouse: Proxy::start(rig.clickhouse.http_port()),
        };
        let source = rig.source.conninfo_through(proxies.source.port(), DATABASE);
        let standby = rig.standby.conninfo_through(proxies.standby.port(), DATABASE);
        let clickhouse = rig.clickhouse.url_through(proxies.clickhouse.port(), DATABASE);
        rig.configure(|config| {
            config.source = source;
            config.postgres[0].connection = standby;
            config.clickhouse[0].connection = clickhouse;
        });
        proxies
    }

    /// The one before a server.
    fn of(&self, who: Who) -> &Proxy {
        match who {
            Who::Sidecar => panic!("connections of the sidecar are those of a server"),
            Who::Source => &self.source,
            Who::Standby => &self.standby,
            Who::ClickHouse => &self.clickhouse,
        }
    }
}

/// Lets a fault happen, and be over.
pub fn happen(fault: &Planned, rig: &mut Rig, proxies: &Proxies) {
    match fault.kind {
        Kind::Kill => {
            kill(fault.who, rig);
            thread::sleep(fault.lasts);
            launch(fault.who, rig);
        }
        Kind::Freeze => {
            process(fault.who, rig).signal_family(Signal::STOP);
            thread::sleep(fault.lasts);
            process(fault.who, rig).signal_family(Signal::CONT);
        }
        Kind::Cut => proxies.of(fault.who).cut(),
        Kind::HalfCloseSidecar => proxies.of(fault.who).half_close(End::Client),
        Kind::HalfCloseServer => proxies.of(fault.who).half_close(End::Server),
        Kind::Stall => {
            let proxy = proxies.of(fault.who);
            proxy.stall(true);
            thread::sleep(fault.lasts);
            proxy.stall(false);
        }
        Kind::Refuse => {
            let proxy = proxies.of(fault.who);
            proxy.refuse(true);
            proxy.cut();
            thread::sleep(fault.lasts);
            proxy.refuse(false);
        }
        Kind::Slow => {
            let proxy = proxies.of(fault.who);
            proxy.slow(Some(SLOW));
            thread::sleep(fault.lasts);
            proxy.slow(None);
        }
        Kind::Spoil => {
            let proxy = proxies.of(fault.who);
            proxy.spoil(true);
            thread::sleep(fault.lasts);
            proxy.spoil(false);
        }
    }
}

fn process(who: Who, rig: &Rig) -> &Process {
    match who {
        Who::Sidecar => rig.sidecar.process(),
        Who::Source => rig.source.process(),
        Who::Standby => rig.standby.process(),
        Who::ClickHouse => rig.clickhouse.process(),
    }
}

fn kill(who: Who, rig: &mut Rig) {
    match who {
        Who::Sidecar => rig.sidecar.kill(),
        Who::Source => rig.source.kill(),
        Who::Standby => rig.standby.kill(),
        Who::ClickHouse => rig.clickhouse.kill(),
    }
}

fn launch(who: Who, rig: &mut Rig) {
    match who {
        Who::Sidecar => rig.sidecar.launch(),
        Who::Source => rig.source.launch(),
        Who::Standby => rig.standby.launch(),
        Who::ClickHouse => rig.clickhouse.launch(),
    }
}

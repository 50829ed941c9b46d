//! Taking over the configuration file as it is now, while the daemon runs.

use anyhow::Context as _;

use super::{Daemon, age_tick, plan};
use crate::config::{Announce, Config};

impl Daemon {
    /// Reads the configuration again: the whole of it is taken over, or nothing.
    pub(super) async fn reload(&mut self) {
        let (config, before) = match self.take_over().await {
            Ok(taken) => taken,
            Err(error) => return tracing::error!("the configuration stays as it was: {error:#}"),
        };
        match self.follow(&config, &before).await {
            Ok(()) => tracing::info!("{} was read again and applied", self.file.display()),
            Err(error) => tracing::error!("the new configuration is applied, but {error:#}"),
        }
    }

    /// Applies the configuration as it is now; gives it, and the one before.
    async fn take_over(&mut self) -> anyhow::Result<(Config, Config)> {
        let mut config = Config::load(&self.file)?;
        let before = self.lock().config.clone();
        config.daemon.socket.clone_from(&before.daemon.socket);
        restart_only(&before, &config)?;
        let interfaces = plan::find_interfaces(&config, &self.netlink).await?;
        plan::check_sources(&config, &self.netlink).await?;
        let terms = plan::terms(&config)?;
        tokio::task::block_in_place(|| self.lock().apply(config.clone(), interfaces))?;
        self.terms = terms;
        Ok((config, before))
    }

    /// Watches and announces what a new configuration names, and no longer what only the old one did.
    async fn follow(&mut self, config: &Config, before: &Config) -> anyhow::Result<()> {
        self.watch(config, Some(before))?;
        let meta = self.lock().dataplane.maps().meta.read(0);
        self.sweeping.set_policy(plan::timeouts(&config.daemon, age_tick(&meta)));
        // Scrapes are known only now.
        tokio::task::block_in_place(|| self.lock().settle())?;
        self.withdraw(config, before).await?;
        self.announce(config).await
    }

    /// Takes addresses off interfaces that the new configuration no longer wants there.
    async fn withdraw(&mut self, config: &Config, before: &Config) -> anyhow::Result<()> {
        let placed = |config: &Config| -> Vec<_> {
            let vips = config.vips.iter();
            vips.filter_map(|vip| match &vip.announce {
                Announce::Address { interface } => Some((interface.clone(), vip.address)),
                Announce::None | Announce::Arp { .. } => None,
            })
            .collect()
        };
        let wanted = placed(config);
        let interfaces = self.lock().interfaces.clone();
        for (name, address) in placed(before).into_iter().filter(|place| !wanted.contains(place)) {
            let interface = interfaces.get(&name).with_context(|| format!("interface {name} is gone"))?;
            self.addresses
                .remove(interface, address)
                .await
                .with_context(|| format!("take {address} off {name}"))?;
        }
        Ok(())
    }
}

/// Refuses what only a restart can change.
fn restart_only(before: &Config, after: &Config) -> anyhow::Result<()> {
    let (old, new) = (&before.daemon, &after.daemon);
    anyhow::ensure!(
        (&old.pin, old.flows, old.tick) == (&new.pin, new.flows, new.tick),
        "`pin`, `flows` and `tick` of [daemon] change only with a restart"
    );
    let ports =
        |config: &Config| -> Vec<_> { config.interfaces.iter().map(|i| (i.name.clone(), i.mode)).collect() };
    anyhow::ensure!(ports(before) == ports(after), "interfaces change only with a restart");
    anyhow::ensure!(
        before.nat.addresses() == after.nat.addresses(),
        "`sources` of [nat] change only with a restart{}",
        // Flows hold ports of the old ones.
        if old.pin.is_some() { ", and with `pin` only once its directory is removed" } else { "" }
    );
    anyhow::ensure!(before.health == after.health, "[health] changes only with a restart");
    anyhow::ensure!(before.nvml == after.nvml, "[nvml] changes only with a restart");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::restart_only;
    use crate::config::Config;

    fn config(head: &str) -> Config {
        let rest = "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"chat\"\naddress = \"10.0.0.10\"\nport = 80\n\
                    mode = \"l2\"\n[[vip.backend]]\nname = \"gpu-0\"\naddress = \"10.0.0.21\"\n";
        Config::parse("lb.toml", &format!("{head}\n{rest}")).unwrap_or_else(|error| panic!("{head}: {error}"))
    }

    #[test]
    fn what_only_a_restart_can_change_is_refused_with_the_way_out() {
        let pinned = |rest: &str| config(&format!("[daemon]\npin = \"/sys/fs/bpf/a\"\n{rest}"));
        let two = "[nat]\nsources = [\"10.0.0.200\", \"10.0.0.201\"]";
        let swapped = "[nat]\nsources = [\"10.0.0.201\", \"10.0.0.200\"]";
        for (what, before, after, words) in [
            ("another table", config(""), config("[daemon]\nflows = 4096"), "`flows`"),
            ("another library", config(""), config("[nvml]\nlibrary = \"/a.so\""), "[nvml]"),
            ("other probes", config(""), config("[health]\nrise = 9"), "[health]"),
            ("new sources", config(""), config(two), "`sources` of [nat] change only with a restart"),
            ("another order", config(two), config(swapped), "`sources` of [nat]"),
            ("pinned sources", pinned(two), pinned(""), "once its directory is removed"),
        ] {
            let message = restart_only(&before, &after).expect_err(what).to_string();
            assert!(message.contains(words), "{what}: {message}");
        }
        for (what, before, after) in [
            ("another manner", config(two), config(&format!("{two}\nannounce = \"arp\""))),
            ("another prefix", config(""), config("[tunnel]\nsource_v4 = \"172.16.0.0/16\"")),
        ] {
            assert!(restart_only(&before, &after).is_ok(), "{what}");
        }
    }
}

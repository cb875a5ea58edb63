"""Floor 4: the driver of dumps, the transport to clients, the holding disk.

What app/ calls, in the order of a night (settings: settings.Settings, catalog: catalog.store.Catalog):

    runlock.hold(settings) -> context manager            raises Busy (since when, which pid); holds <state>/run.lock
    sweep.sweep(settings, catalog)  -> Swept            what killed runs left: whole signed dumps get their rows
                                                         (.adopted: names), the rest goes (.removed: folders), what
                                                         cannot be vouched for stays (.strange), disks that are not
                                                         there (.problems); only while the lock is held
    history.gather(settings, catalog) -> {(client, source): [schedule.bases.Past]}
    app.planning makes of it what is planned: [schedule.bases.Planned]
    catalog.begin_run("run") -> RunRow
    driver.run_dumps(settings, catalog, planned, run=RunRow, connect=transport.connect, progress=None) -> [ResultRow]
                                                         several at once, each isolated; adds dumps and results to the
                                                         catalog, writes the signed record <state>/runs/<run>.json, .sig
    catalog.end_run(run.id, status, summary)

    progress(event: dict) is called from several threads, one call at a time:
        {"client", "source", "phase": "waiting|connecting|dumping|finishing|done|failed", "level", "entries", "bytes",
         "total": bytes expected or None}

    transport.connect(settings, client: settings.Client) -> AgentConnection      for dump, restore, survey
    transport.connect_extract(settings, to_dir) -> AgentConnection  a local agent `extract --to DIR`
        with connect(settings, client) as agent:       the process ends on every way out
            agent.hello() -> dict        sends HELLO once and returns the agent's HELLO (checked, kept)
            agent.request(dict) -> dict  sends REQUEST, with HELLO before it in one round when none went; the HELLO
            agent.channel                wire.Channel; raises WireError or OSError when the line is cut
            agent.failure(error) -> StowageError       what ssh's own words make of an error on the channel
            agent.cut()                  from any thread: ends the conversation
    status.read(settings) -> dict | None                 what the run at work does ({"pid", "run", "alive", "dumps": …})
"""

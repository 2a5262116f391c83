from __future__ import annotations

from dataclasses import replace

import pytest

from controller.planning import make_plan
from controller.reconcile import (
    Apply,
    Close,
    CreateDomain,
    End,
    GivenUp,
    Memory,
    PutPlan,
    RemoveDomain,
    Seen,
    Start,
    Stop,
    decide,
)
from controller.settings import PolicySettings
from controller.view import JobView, NodeView
from lifl.platform.api import Aggregator
from lifl.topology import Level, Plan

POLICIES = PolicySettings(capacity=20.0, leaves=8, keep_seconds=30.0)
JOB = JobView(
    job="j",
    uid=61000,
    round=1,
    assignment=1,
    phase="planning",
    closing=False,
    geometry={"slots": 8, "float_bytes": 4096, "meta_bytes": 4096, "lanes": 256},
    fan_in=2,
    timing="eager",
    expected=4,
    selected=("c1", "c2", "c3", "c4"),
    known=(),
    home="node-0",
    plan=None,
)
NODE = NodeView("node-0", "e1", frozenset({"j"}))


def seen(
    *jobs: JobView,
    nodes: tuple[NodeView, ...] = (NODE,),
    running: tuple[Aggregator, ...] = (),
    now: float = 0.0,
    leaving: tuple[str, ...] = (),
) -> Seen:
    return Seen(jobs, nodes, running, now, leaving)


def started(plan: Plan) -> tuple[Aggregator, ...]:
    return tuple(Aggregator(r.name, plan.job, r.node) for r in plan.roles)


def opened(job: JobView = JOB) -> tuple[JobView, Memory]:
    """The job with its plan put and everything done."""
    memory = Memory()
    actions = decide(seen(job), memory, POLICIES)
    for action in actions:
        memory.done(action, 0.0)
    (put,) = (a for a in actions if isinstance(a, PutPlan))
    return replace(job, phase="open", plan=put.plan), memory


def expected(plan: Plan, node: str) -> int:
    """Return how many updates a plan expects on a node."""
    own = plan.own()
    return sum(own[r.name] for r in plan.on(node))


def test_a_new_job_gets_a_pool_aggregators_routes_and_then_its_plan() -> None:
    fresh = replace(NODE, domains=frozenset())
    actions = decide(seen(JOB, nodes=(fresh,)), Memory(), POLICIES)
    kinds = [type(a) for a in actions]
    assert kinds == [CreateDomain, Start, Start, Apply, PutPlan]
    plan = actions[-1].plan
    assert [r.name for r in plan.roles] == ["j-agg-0", "j-agg-1"]
    assert plan.clients == dict.fromkeys(JOB.selected or (), "node-0")


def test_nothing_is_done_twice() -> None:
    job, memory = opened()
    assert job.plan is not None
    assert decide(seen(job, running=started(job.plan)), memory, POLICIES) == []


@pytest.mark.parametrize("reuse", [True, False])
def test_a_plan_that_is_not_seen_is_put_again_as_it_was(reuse: bool) -> None:
    job, memory = opened()
    assert job.plan is not None
    policies = replace(POLICIES, reuse=reuse)
    running = started(job.plan)
    assert decide(seen(JOB, running=running), memory, policies) == []
    again = decide(seen(JOB, running=running, now=2.0), memory, policies)
    assert again == [PutPlan(job.plan, JOB.round)]  # no aggregator is started beside those


def test_a_plan_counts_as_put_when_it_was_not_when_it_was_decided() -> None:
    memory = Memory()
    actions = decide(seen(JOB, now=10.0), memory, POLICIES)
    (put,) = (a for a in actions if isinstance(a, PutPlan))
    for action in actions:
        memory.done(action, 14.0)  # starting what it needs took long
    running = started(put.plan)
    assert decide(seen(JOB, running=running, now=14.5), memory, POLICIES) == []


def test_a_plan_that_is_not_seen_is_made_anew_if_a_node_of_it_is_gone() -> None:
    _, memory = opened()
    actions = decide(
        seen(JOB, nodes=(NodeView("node-1", "f1", frozenset({"j"})),), now=2.0), memory, POLICIES
    )
    (put,) = (a for a in actions if isinstance(a, PutPlan))
    assert (put.plan.epoch, put.plan.nodes) == (2, ("node-1",))


def test_no_plan_before_clients_are_chosen_but_the_pool_is_there() -> None:
    waiting = replace(JOB, expected=0, selected=())
    fresh = replace(NODE, domains=frozenset())
    actions = decide(seen(waiting, nodes=(fresh,)), Memory(), POLICIES)
    assert [type(a) for a in actions] == [CreateDomain]


def test_a_job_without_a_model_or_without_a_reachable_agent_waits() -> None:
    assert decide(seen(replace(JOB, geometry=None)), Memory(), POLICIES) == []
    assert decide(seen(JOB, nodes=(NodeView("node-0", ""),)), Memory(), POLICIES) == []


def test_a_dead_aggregator_is_started_again_under_its_name() -> None:
    job, memory = opened()
    assert job.plan is not None
    alive = started(job.plan)[1:]
    actions = decide(seen(job, running=alive), memory, POLICIES)
    assert actions == [Start(started(job.plan)[0], JOB.uid)]


def test_a_restarted_agent_gets_the_plan_again() -> None:
    job, memory = opened()
    assert job.plan is not None
    again = replace(NODE, epoch="e2")
    actions = decide(seen(job, nodes=(again,), running=started(job.plan)), memory, POLICIES)
    assert actions == [Apply("node-0", "e2", job.plan)]


def test_a_controller_that_was_killed_repeats_itself_without_a_new_plan() -> None:
    job, _ = opened()
    assert job.plan is not None
    actions = decide(seen(job, running=started(job.plan)), Memory(), POLICIES)
    assert actions == [Apply("node-0", "e1", job.plan)]


def test_a_closing_round_is_settled_once_per_life_of_the_agent() -> None:
    job, memory = opened()
    assert job.plan is not None
    running = started(job.plan)
    job = replace(job, phase="closing", closing=True)
    (close,) = decide(seen(job, running=running), memory, POLICIES)
    assert close == Close("node-0", "e1", "j", 1, 1)
    memory.done(close, 0.0)
    assert decide(seen(job, running=running), memory, POLICIES) == []
    again = decide(seen(job, nodes=(replace(NODE, epoch="e2"),), running=running), memory, POLICIES)
    assert [type(a) for a in again] == [Apply, Close]


def test_the_next_assignment_ends_the_last_and_reuses_its_aggregators() -> None:
    job, memory = opened()
    assert job.plan is not None
    running = started(job.plan)
    following = replace(job, round=2, assignment=2, phase="planning", plan=None)
    actions = decide(seen(following, running=running, now=2.0), memory, POLICIES)
    assert [type(a) for a in actions] == [End, Apply, PutPlan]
    assert actions[0] == End("node-0", "j", 1)
    assert actions[2].plan.roles == job.plan.roles
    assert actions[2].plan.epoch == 1


def test_a_lost_node_makes_a_new_plan_that_keeps_the_other_nodes() -> None:
    three = (NODE, *(NodeView(f"node-{i}", "f", frozenset({"j"})) for i in (1, 2)))
    small = replace(POLICIES, capacity=2.0)
    six = replace(JOB, selected=tuple(f"c{i}" for i in range(6)), expected=6)
    plan = make_plan(six, [], three, [], previous=None, policies=small)
    assert plan.nodes == ("node-0", "node-1", "node-2")
    job = replace(six, phase="open", plan=plan)
    running = started(plan)
    memory = Memory()

    def put(now: float) -> list[Plan]:
        actions = decide(seen(job, nodes=three[:2], running=running, now=now), memory, small)
        return [a.plan for a in actions if isinstance(a, PutPlan)]

    assert put(0.0) == []
    assert put(2.9) == [], "a restarted coordinator needs a moment to hear of its nodes"
    (again,) = put(3.0)
    assert again.epoch == plan.epoch + 1
    assert again.nodes == ("node-0", "node-1")
    stayed = {c: n for c, n in plan.clients.items() if n != "node-2"}
    assert again.clients.items() >= stayed.items()
    assert set(again.clients) == set(plan.clients)
    assert sum(again.own().values()) == 6


def test_a_node_that_comes_back_in_time_was_not_lost() -> None:
    job, memory = opened()
    assert job.plan is not None
    running = started(job.plan)
    other = NodeView("node-1", "f1", frozenset({"j"}))
    for now, nodes in ((0.0, (other,)), (2.0, (NODE, other)), (4.0, (other,)), (6.0, (other,))):
        actions = decide(seen(job, nodes=nodes, running=running, now=now), memory, POLICIES)
        assert not any(isinstance(a, PutPlan) for a in actions)


def test_a_node_whose_agent_restarts_is_not_lost() -> None:
    job, memory = opened()
    assert job.plan is not None
    away = NodeView("node-0", "")
    assert decide(seen(job, nodes=(away,), running=started(job.plan)), memory, POLICIES) == []


def test_a_job_that_is_over_is_given_back_after_a_while() -> None:
    job, memory = opened()
    assert job.plan is not None
    running = started(job.plan)
    over = replace(job, phase="done")
    (end,) = decide(seen(over, running=running), memory, POLICIES)
    assert end == End("node-0", "j", 1)
    memory.done(end, 0.0)
    assert decide(seen(over, running=running, now=29.0), memory, POLICIES) == []
    (stop,) = decide(seen(over, running=running, now=30.0), memory, POLICIES)
    assert stop == Stop(("j-agg-0", "j-agg-1"))
    assert decide(seen(over, now=31.0), memory, POLICIES) == [RemoveDomain("node-0", "j")]


def test_an_aggregator_without_a_role_is_stopped_after_a_while_only() -> None:
    job, memory = opened()
    assert job.plan is not None
    spare = Aggregator("j-agg-9", "j", "node-0")
    running = (*started(job.plan), spare)
    assert decide(seen(job, running=running, now=5.0), memory, POLICIES) == []
    assert decide(seen(job, running=running, now=35.0), memory, POLICIES) == [Stop(("j-agg-9",))]


def test_more_updates_than_capacity_still_have_a_place() -> None:
    many = replace(JOB, selected=tuple(f"c{i:03}" for i in range(50)), expected=50)
    nodes = [NODE, NodeView("node-1", "f1")]
    plan = make_plan(many, [], nodes, [], previous=None, policies=POLICIES)
    counts = [expected(plan, n.name) for n in nodes]
    assert sum(counts) == 50
    assert max(counts) - min(counts) <= 1


def test_what_other_jobs_expect_leaves_less_room() -> None:
    job, _ = opened(replace(JOB, selected=tuple(f"c{i}" for i in range(19)), expected=19))
    other = replace(JOB, job="k")
    nodes = [NODE, NodeView("node-1", "f1")]
    plan = make_plan(other, [job], nodes, [], previous=None, policies=POLICIES)
    assert expected(plan, "node-0") == 1
    assert expected(plan, "node-1") == 3


def test_unknown_clients_are_placed_by_number() -> None:
    everyone = replace(JOB, selected=None, expected=3, known=("a", "b", "c", "d"))
    plan = make_plan(everyone, [], [NODE], [], previous=None, policies=POLICIES)
    assert plan.clients == dict.fromkeys("abcd", "node-0")
    assert expected(plan, "node-0") == 3
    assert plan.top.level is Level.TOP


@pytest.mark.parametrize("phase", ["open", "closing", "committing"])
def test_a_view_of_the_watch_answer_is_read(phase: str) -> None:
    job, _ = opened()
    assert job.plan is not None
    raw = {
        "job": "j",
        "domain_uid": 61000,
        "round": 1,
        "assignment": 1,
        "phase": phase,
        "geometry": dict(JOB.geometry or {}),
        "fan_in": 2,
        "timing": "eager",
        "expected": 4,
        "selected": list(JOB.selected or ()),
        "model": {"node": "node-0"},
        "plan": job.plan.to_json(),
    }
    view = JobView.from_json(raw)
    assert view == replace(job, phase=phase, closing=phase == "closing")
    assert JobView.from_json(raw | {"assignment": 2}).plan is None
    assert JobView.from_json(raw | {"as_needed": True}).fan_in is None
    assert JobView.from_json(raw | {"as_needed": False}).fan_in == 2


def test_newcomers_get_a_node_by_a_new_epoch_of_the_same_plan() -> None:
    two = (NODE, NodeView("node-1", "f1", frozenset({"j"})))
    small = replace(POLICIES, capacity=2.0)
    everyone = replace(JOB, selected=None, known=("a",))
    plan = make_plan(everyone, [], two, [], previous=None, policies=small)
    assert plan.clients == {"a": "node-0"}
    job = replace(everyone, phase="open", plan=plan, known=("a", "b", "c", "d"))
    actions = decide(seen(job, nodes=two, running=started(plan)), Memory(), small)
    (put,) = (a for a in actions if isinstance(a, PutPlan))
    assert put.plan.roles == plan.roles
    assert put.plan.epoch == plan.epoch + 1
    assert sorted(put.plan.clients.values()) == ["node-0", "node-0", "node-1", "node-1"]


# -- deleted jobs ---------------------------------------------------------------


def test_a_deleted_job_is_cleared_away_at_once_and_then_its_name_given_up() -> None:
    job, memory = opened()
    assert job.plan is not None
    nodes = (NODE, NodeView("node-1", "e1", frozenset({"other"})))
    running = started(job.plan)
    gone = decide(seen(nodes=nodes, running=running, leaving=("j",)), memory, POLICIES)
    assert gone == [Stop(tuple(a.name for a in running))]
    gone = decide(seen(nodes=nodes, leaving=("j",)), memory, POLICIES)
    assert gone == [RemoveDomain("node-0", "j")]
    empty = (replace(NODE, domains=frozenset()), nodes[1])
    gone = decide(seen(nodes=empty, leaving=("j",)), memory, POLICIES)
    assert gone == [GivenUp("j")]
    assert decide(seen(nodes=empty), memory, POLICIES) == []


def test_a_name_is_not_given_up_while_an_agent_may_still_have_the_pool() -> None:
    away = (replace(NODE, domains=frozenset()), NodeView("node-1", ""))
    assert decide(seen(nodes=away, leaving=("j",)), Memory(), POLICIES) == []
    back = (away[0], NodeView("node-1", "e2", frozenset({"j"})))
    gone = decide(seen(nodes=back, leaving=("j",)), Memory(), POLICIES)
    assert gone == [RemoveDomain("node-1", "j")]
    left = decide(seen(nodes=away[:1], leaving=("j",)), Memory(), POLICIES)
    assert left == [GivenUp("j")]  # the node itself is gone


def test_nothing_is_said_of_a_deleted_job_a_second_way() -> None:
    memory = Memory()
    aggregator = Aggregator("j-agg-0", "j", "node-0")
    for now in (0.0, 100.0):
        busy = seen(running=(aggregator,), leaving=("j",), now=now)
        assert decide(busy, memory, POLICIES) == [Stop(("j-agg-0",))]
    for now in (200.0, 300.0):
        assert decide(seen(leaving=("j",), now=now), memory, POLICIES) == [
            RemoveDomain("node-0", "j")
        ]


def test_the_next_job_of_that_name_starts_from_nothing() -> None:
    job, memory = opened()
    assert job.plan is not None
    for action in (End("node-0", "j", 1), Close("node-0", "e1", "j", 1, 1), GivenUp("j")):
        memory.done(action, 0.0)
    fresh = replace(NODE, domains=frozenset())
    actions = decide(seen(JOB, nodes=(fresh,)), memory, POLICIES)
    kinds = [type(a) for a in actions]
    assert kinds == [CreateDomain, Start, Start, Apply, PutPlan]
    assert actions[-1].plan.epoch == 1
    assert not (memory.applied or memory.ended or memory.closed or memory.plans)


def test_giving_up_a_name_leaves_other_jobs_alone() -> None:
    job, memory = opened()
    memory.done(GivenUp("other"), 0.0)
    assert job.plan is not None
    assert decide(seen(job, running=started(job.plan)), memory, POLICIES) == []

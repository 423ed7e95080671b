"""The laws every environment keeps, on all of them."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from environments.base import (
    FIRST_INDEX,
    Call,
    Environment,
    InvalidTask,
    Task,
    assistant,
    final_answer,
    is_held_out,
)
from environments.catalog import make_environment
from environments.config import EnvironmentConfig, PythonMathConfig, ReasoningConfig
from environments.math_questions import TEMPLATES
from environments.python_math import PythonMath, same_answer
from environments.sandbox import Sandbox
from environments.thoughts import THOUGHTS
from stemma.core.errors import StemmaError

CONFIGS: dict[str, dict[str, Any]] = {
    "easy maths": {"kind": "python_math", "thoughts": False, "digits": [1, 2]},
    "all maths": {"kind": "python_math", "templates": list(TEMPLATES), "operands": [2, 4], "mistakes": 0.5},
    "aiw": {"kind": "reasoning", "dataset": "aiw", "parameters": {"max_entities": 4}},
    "legs": {"kind": "reasoning", "dataset": "leg_counting", "instruction": "Answer with a number."},
    "repair": {"kind": "code_repair", "mistakes": 0.5},
}


def parse(value: dict[str, Any]) -> EnvironmentConfig:
    config: EnvironmentConfig = TypeAdapter(EnvironmentConfig).validate_python(value)
    return config


@pytest.fixture(scope="module", params=CONFIGS)
def environment(request: pytest.FixtureRequest, monty: Sandbox) -> Environment:
    return make_environment(parse(CONFIGS[request.param]), monty)


def test_experts_solve_their_tasks(environment: Environment) -> None:
    tasks = [environment.draw(3, index) for index in range(40)]
    episodes = environment.experts(tasks)
    assert environment.score_many(list(zip(tasks, episodes))) == [1.0] * len(tasks)
    environment.validate(tasks[0])


def test_a_task_depends_on_seed_and_index_alone(environment: Environment) -> None:
    forward = [environment.task(5, index) for index in range(8)]
    backward = [environment.task(5, index) for index in reversed(range(8))]
    assert forward == backward[::-1]
    assert len({task.messages[-1]["content"] for task in forward}) > 1
    assert forward != [environment.task(6, 100 + index) for index in range(8)]


def test_experts_are_deterministic_and_independent_of_their_batch(environment: Environment) -> None:
    tasks = [environment.draw(1, index) for index in range(6)]
    together = environment.experts(tasks)
    assert together == [environment.expert(task) for task in tasks]


def test_held_out_tasks_are_never_training_tasks(environment: Environment) -> None:
    training = {environment.draw(0, index).messages[-1]["content"] for index in range(60)}
    kept = [environment.draw(0, FIRST_INDEX["evaluation"] + index, held_out=True) for index in range(20)]
    assert all(is_held_out(task) for task in kept)
    if environment.name != "code_repair":  # there it is the function that is held out, not the wording
        assert training.isdisjoint(task.messages[-1]["content"] for task in kept)


def test_messages_are_json_in_the_agreed_form(environment: Environment) -> None:
    for index in range(10):
        task = environment.draw(0, index)
        episode = environment.expert(task)
        messages = [*task.messages, *episode]
        assert json.loads(json.dumps(messages)) == messages
        assert json.loads(json.dumps([task.meta, task.tools])) == [task.meta, list(task.tools)]
        assert messages[0]["role"] in ("system", "user")
        assert messages[-1]["role"] == "assistant"
        assert not messages[-1].get("tool_calls")
        names = {tool["function"]["name"] for tool in task.tools}
        for message, following in itertools.pairwise(messages):
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in names
                assert following["role"] == "tool"
        assert sum(message["role"] == "assistant" for message in messages) <= environment.max_turns


def test_a_wrong_or_missing_answer_scores_nothing(environment: Environment) -> None:
    task = environment.draw(0, 0)
    for answer in ("", "<think>I never stop", "a wrong answer entirely"):
        assert environment.score(task, [assistant(answer)]) < 1.0
    assert environment.score(task, []) == 0.0


def test_calls_a_model_got_wrong_are_answered_not_raised(environment: Environment) -> None:
    task = environment.draw(0, 0)
    for name, arguments in (
        ("no_such_tool", {}),
        ("python", None),
        ("python", {"code": 3}),
        ("edit_file", {"path": 1}),
    ):
        assert "error" in environment.step(task, {"name": name, "arguments": arguments})


def test_both_sandboxes_give_the_same_episodes(bwrap: Sandbox, monty: Sandbox) -> None:
    for name in ("all maths", "repair"):
        one, other = (make_environment(parse(CONFIGS[name]), sandbox) for sandbox in (bwrap, monty))
        tasks = [one.draw(9, index) for index in range(60)]
        assert one.experts(tasks) == other.experts(tasks)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_program_of_every_template_prints_the_answer(template: str, monty: Sandbox) -> None:
    config = PythonMathConfig(templates=(template,), operands=(2, 4))
    environment = PythonMath(config, monty)
    for index in range(25):
        task = environment.task(0, index)
        programs = task.state["question"].programs
        calls = [Call(task, {"name": "python", "arguments": {"code": program}}) for program in programs]
        assert set(environment.step_many(calls)) == {task.answer}


def test_slips_lead_astray_and_are_corrected(monty: Sandbox) -> None:
    environment = PythonMath(PythonMathConfig(templates=("factorial", "power"), mistakes=1.0), monty)
    tasks = [environment.draw(0, index) for index in range(20)]
    episodes = environment.experts(tasks)
    assert any(len(episode) == 5 for episode in episodes)
    for task, episode in zip(tasks, episodes):
        if len(episode) == 5:
            assert episode[1]["content"] != task.answer
            assert episode[3]["content"] == task.answer


def test_tool_output_is_short_and_says_what_went_wrong(sandbox: Sandbox) -> None:
    environment = PythonMath(PythonMathConfig(), sandbox)
    task = environment.task(0, 0)

    def run(code: str) -> str:
        return environment.step(
            task, {"type": "function", "function": {"name": "python", "arguments": {"code": code}}}
        )

    assert run("print(1)\nprint(2)") == "1\n2"
    assert run("6 * 7") == "42"
    assert run("x = 1") == "error: nothing was printed"
    assert run("print(y)") == "NameError: name 'y' is not defined"
    assert len(run("print('a' * 3000)")) < 210
    assert run("print('a' * 30000)") == "error: too much output"


@given(st.integers(-(10**9), 10**9))
def test_numbers_may_be_written_in_several_ways(number: int) -> None:
    for text in (str(number), f" {number}. ", f"{number:,}", f"{number}.0"):
        assert same_answer(text, str(number))
    assert not same_answer(str(number + 1), str(number))
    assert not same_answer("", str(number))


@given(st.text(alphabet="abc <>/think", max_size=30))
def test_the_answer_is_what_follows_the_thinking(thought: str) -> None:
    content = f"<think>{thought.replace('</think>', '')}</think> 42 "
    assert final_answer([assistant("draft"), assistant(content)]) == "42"
    assert final_answer([assistant("<think>" + thought.replace("</think>", ""))]) == ""
    assert final_answer([assistant("42", ("python", {"code": ""}))]) == ""


@pytest.mark.parametrize("dataset", THOUGHTS)
def test_thoughts_fit_their_data_sets(dataset: str) -> None:
    environment = make_environment(ReasoningConfig(dataset=dataset))
    for index in range(20):
        task = environment.task(0, index)
        content = environment.expert(task)[0]["content"]
        assert "None" not in content
        assert final_answer([assistant(content)]) == task.answer
        assert environment.score(task, [assistant(content)]) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6))
def test_reasoning_series_are_reasoning_gyms_own(seed: int, index: int) -> None:
    import reasoning_gym

    environment = make_environment(ReasoningConfig(dataset="aiw"))
    entry = reasoning_gym.create_dataset("aiw", seed=seed, size=2**40)[index]
    task = environment.task(seed, index)
    assert task.messages[0]["content"] == entry["question"].strip()
    assert task.answer == entry["answer"]


def test_a_task_its_expert_fails_is_refused(monty: Sandbox) -> None:
    environment = PythonMath(PythonMathConfig(), monty)
    task = environment.task(0, 0)
    wrong = Task(**{**vars(task), "answer": "not a number"})
    with pytest.raises(InvalidTask, match=task.id):
        environment.validate(wrong)


def test_questions_that_hardly_vary_are_refused(monty: Sandbox) -> None:
    narrow = make_environment(
        ReasoningConfig(
            dataset="coin_flip", parameters={"min_trials": 1, "max_trials": 1, "allow_at_least": False}
        ),
        monty,
    )
    sides = {is_held_out(narrow.task(0, index)) for index in range(200)}
    if len(sides) == 1:
        with pytest.raises(InvalidTask, match="hardly vary"):
            narrow.draw(0, 0, held_out=not sides.pop())


def test_wrong_names_and_parameters_are_explained(monty: Sandbox) -> None:
    with pytest.raises(StemmaError, match=r"no data set 'leg_count'; it has: .*leg_counting"):
        make_environment(ReasoningConfig(dataset="leg_count"))
    with pytest.raises(StemmaError, match="refuses the parameters of 'leg_counting'"):
        make_environment(ReasoningConfig(dataset="leg_counting", parameters={"legs": 4}))
    with pytest.raises(StemmaError, match=r"no templates \['sums'\]"):
        make_environment(PythonMathConfig(templates=("sums",)), monty)


def test_a_profile_names_the_field_that_is_wrong() -> None:
    with pytest.raises(ValidationError, match=r"python_math\.digit"):
        parse({"kind": "python_math", "digit": [1, 2]})
    with pytest.raises(ValidationError, match="'reasoning', 'python_math', 'code_repair'"):
        parse({"kind": "web"})

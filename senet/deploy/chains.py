"""Put kernels in C that follow each other into one operation, which calls them all at once."""

from __future__ import annotations

import operator

from torch import fx

from senet.deploy.graph import Graph, operation
from senet.deploy.in_place import PACKED
from senet.kernels import replay

KERNELS = (
    *PACKED,
    "depthwise",
    "depthwise_squeeze",
    "expanded_depthwise",
    "global_mean",
    "gates",
    "channel_gates",
    "linear_packed",
    "pool",
    "cat",
)


def chain_kernels(g: Graph) -> None:
    """Replace each run of two or more kernels in C by a `Chain`."""
    run: list[fx.Node] = []
    for node in [*g.graph.nodes]:
        is_kernel = node.op == "call_function" and operation(node) in KERNELS and "senet" in str(node.target)
        is_item = node.target is operator.getitem and node.args[0] in run
        if is_kernel or is_item:
            run.append(node)
        elif node.op != "get_attr":
            _replace(g, run)
            run = []


def _replace(g: Graph, run: list[fx.Node]) -> None:
    if len([n for n in run if n.target is not operator.getitem]) < 2 or not replay.available():
        return
    graph, values = fx.Graph(), dict[fx.Node, fx.Node]()
    inputs = []
    for n in dict.fromkeys(n for node in run for n in node.all_input_nodes if n not in run):
        if n.op == "get_attr":
            values[n] = graph.get_attr(str(n.target))
        else:
            values[n] = graph.placeholder(n.name)
            inputs.append(n)
    for node in run:
        values[node] = graph.node_copy(node, values.__getitem__)
    results = [n for n in run if any(user not in run for user in n.users)]
    graph.output(tuple(values[n] for n in results))
    name = f"chain_{sum(n.op == 'call_module' for n in g.graph.nodes)}"
    g.module.add_submodule(name, replay.Chain(fx.GraphModule(g.module, graph)))
    with g.graph.inserting_after(run[-1]):
        chain = g.graph.call_module(name, tuple(inputs))
    at = chain
    for i, n in enumerate(results):
        with g.graph.inserting_after(at):
            at = g.graph.call_function(operator.getitem, (chain, i))
        at.meta = dict(n.meta)
        n.replace_all_uses_with(at, delete_user_cb=lambda user: user not in run)
    for node in reversed(run):
        g.graph.erase_node(node)

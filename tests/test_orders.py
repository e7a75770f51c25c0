"""The order of a chain's links: wrong ones raise, with the right one in the message, and right ones do not."""

import jax
import jax.numpy as jnp
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim

PARAMS = {"bias": jnp.ones(3), "kernel": jnp.full((2, 3), 2.0)}
KERNELS = {"bias": False, "kernel": True}
ADAM, MOMENTUM, LAST = fo.scale_by_adam(), fo.scale_by_momentum(0.9), fo.scale_by_learning_rate(0.1)
DECAY, LAYERS = fo.add_decayed_weights(0.1), fo.layerwise_decay(0.5, lambda path: int(path == "kernel"))
SCHEDULE = fo.schedules.cosine_annealing(0.1, T_max=4)

WRONG = [
    ((fo.scale(-0.5), DECAY, ADAM), "the weights would grow: what add_decayed_weights adds is not negated"),
    ((LAST, ADAM), "the learning rate of scale_by_learning_rate is lost: .* after scale_by\\(adam\\)"),
    ((LAST, DECAY, ADAM, fo.scale(-1.0)), "the learning rate of scale_by_learning_rate is lost: .* after"),
    (
        (fo.scale_by_learning_rate(SCHEDULE), fo.clip_by_value(1.0), fo.scale_by_muon()),
        "is lost: .* after scale_by.muon",
    ),
    ((fo.adam(), fo.scale_by_rms()), r"the learning rate of adam is lost: .* Put adam after scale_by\(rmsprop\)"),
    ((LAST, ADAM, fo.scale(0.1)), "the learning rate of scale_by_learning_rate is lost"),
    ((fo.scale(-0.1), ADAM), r"the size of scale is lost: .* Put scale after scale_by\(adam\); to ascend"),
    ((fo.scale(-0.1), fo.clip_by_value(1.0), ADAM), "the size of scale is lost"),
    ((fo.scale(1e-3), fo.scale(-1.0), ADAM), "the size of scale is lost: .* Put scale after"),
    ((fo.scale(-1.0), fo.clip_by_value(1.0), fo.scale(1e-3), ADAM), "the size of scale is lost"),
    ((fo.accumulate(fo.identity(), 4), fo.adam()), r"accumulate comes before adam, which .* Put adam inside: fo.accum"),
    ((fo.accumulate(fo.identity(), lambda step: 2), ADAM, LAST), r"accumulate comes before scale_by\(adam\), which"),
    ((fo.skip_nonfinite(fo.identity(), 2), fo.sgd(momentum=0.9)), "skip_nonfinite comes before sgd, which"),
    ((fo.skip_spikes(fo.clip_by_value(1.0)), MOMENTUM, LAST), r"skip_spikes comes before scale_by\(sgd\), which"),
    ((fo.accumulate(fo.identity(), 1, skip=fo.if_nonfinite()), fo.clip_by_value(1.0), fo.adam()), "before adam, which"),
    ((fo.accumulate(fo.identity(), 4), fo.sam(fo.sgd())), "accumulate has no effect on the update: sam takes"),
    ((fo.skip_large_updates(fo.identity(), 1.0, 2), fo.sam(fo.sgd())), "skip_large_updates has no effect on the upd"),
    ((fo.set_to_zero(), fo.sam(fo.sgd())), "set_to_zero has no effect on the update"),
    ((fo.adam(), fo.ema(), fo.set_to_zero()), "ema would not get the .*: set_to_zero comes after it"),
    ((LAST, fo.adam()), r"scale_by_learning_rate are negated already, and adam .*fo.chain\(fo.scale_by\(adam\), fo.sc"),
    ((ADAM, LAST, fo.adam()), "adam has a learning rate of its own, lr=: leave scale_by_learning_rate out"),
    ((ADAM, LAST, fo.scale(-1.0), fo.scale(-1.0), fo.sgd()), "and sgd negates them again"),
    ((ADAM, LAST, fo.sgd()), "of scale_by_learning_rate are negated already, and sgd negates them again"),
    ((fo.adamw(), LAST), "of adam are negated already, and scale_by_learning_rate .* leave scale_by_learning_rate out"),
    ((ADAM, LAST, fo.scale_by_learning_rate(SCHEDULE)), "Use scale_by_learning_rate once, and fo.scale for a further"),
    (
        (ADAM, LAST, fo.scale(-1.0)),
        "scale_by_learning_rate are negated already, and scale negates .* put fo.scale.-1.0",
    ),
    (
        (ADAM, LAST, DECAY),
        "the weights would grow: .* Put add_decayed_weights before scale_by_learning_rate: after the",
    ),
    ((fo.skip_nonfinite(ADAM, 3), DECAY, LAST), "decay when skip_nonfinite lets no update through: .* fo.skip_nonfin"),
    ((fo.accumulate(ADAM, 4), fo.clip_by_value(1.0), DECAY, LAST), "would decay when accumulate lets no"),
    ((fo.accumulate(fo.identity(), 4), DECAY, fo.sgd()), "would decay when accumulate lets no update through"),
    ((fo.skip_spikes(ADAM), optax.identity(), DECAY, LAST), "would decay when skip_spikes lets no update through"),
    ((fo.set_to_zero(), DECAY, LAST), "would decay although set_to_zero stops them: .* Put set_to_zero after add_dec"),
    ((LAST, DECAY), "the weights would grow: .* Put add_decayed_weights before scale_by_learning_rate"),
    ((ADAM, fo.scale(-0.1), DECAY), "the weights would grow: what add_decayed_weights adds is not negated"),
    (
        (LAYERS, fo.adamw()),
        "the factors of layerwise_decay are lost: adam normalizes .* Put layerwise_decay after adam",
    ),
    ((LAYERS, fo.clip_by_global_norm(1.0), ADAM, LAST), r"the factors of layerwise_decay are lost: scale_by\(adam\)"),
    ((fo.chain(fo.clip_by_value(1.0), LAST), fo.chain(ADAM)), "the learning rate of scale_by_learning_rate is lost"),
    ((fo.accumulate(LAST, 2), fo.skip_nonfinite(ADAM, 2)), "the learning rate of scale_by_learning_rate is lost"),
    ((LAST, fo.partition({0: ADAM, 1: fo.scale_by_muon()}, lambda path: 0)), "the learning rate .* is lost"),
    ((LAST, fo.scale_by_sign()), "the learning rate of scale_by_learning_rate is lost: .* after scale_by_sign"),
    ((fo.adam(), fo.normalize()), "the learning rate of adam is lost: .* Put adam after normalize"),
    ((fo.sgd(), fo.scale_by_trust_ratio()), "the learning rate of sgd is lost: scale_by_trust_ratio normalizes"),
    ((LAYERS, fo.scale_by_trust_ratio(), LAST), "the factors of layerwise_decay are lost: scale_by_trust_ratio"),
    ((fo.scale_by_param_rms(), ADAM, LAST), "the factors of scale_by_param_rms are lost"),
    ((fo.scale_by_param_rms(), fo.normalize(), fo.scale_by_sign(), LAST), "are lost: scale_by_sign normalizes"),
    ((fo.reduce_on_plateau(), fo.normalize(), LAST), "the factors of reduce_on_plateau are lost: normalize normalizes"),
    ((fo.reduce_on_plateau(), fo.adam()), "the factors of reduce_on_plateau are lost"),
    ((DECAY, fo.sam(fo.sgd())), r"add_decayed_weights has no effect on the update: sam .* fo.sam\(fo.chain\(fo.add"),
    ((fo.clip_by_global_norm(1.0), fo.sam(fo.sgd())), "clip_by_global_norm has no effect on the update: sam"),
    ((fo.scale(-1.0), fo.sam(fo.sgd())), "scale has no effect on the update"),
    (
        (DECAY, fo.lbfgs()),
        "add_decayed_weights is lost: lbfgs evaluates the objective itself, .* fo.freeze.fo.l",
    ),
    ((fo.scale(-1.0), fo.bfgs(max_iter=3)), "scale is lost: bfgs evaluates the objective itself"),
    ((fo.clip_by_value(1.0), fo.lbfgs(max_iter=1, line_search_fn="strong_wolfe")), "clip_by_value is lost: lbfgs"),
    ((fo.skip_nonfinite(fo.identity(), 2), fo.freeze(fo.lbfgs(), KERNELS)), "skip_nonfinite is lost: lbfgs"),
    ((fo.sam(fo.identity()), fo.lbfgs()), "sam is lost: lbfgs evaluates"),
    ((fo.ema(), fo.adam()), "ema would not get the parameters of the step: adam comes after it .* Put ema last"),
    ((ADAM, fo.swa(), LAST), "swa would not get the parameters of the step: scale_by_learning_rate comes after it"),
    ((fo.adam(), fo.ema(), fo.keep_nonnegative()), "ema would not get the .*: keep_nonnegative comes after it"),
    ((fo.lookahead(fo.adam()), fo.scale(0.5)), "lookahead would not get the parameters of the step: scale comes"),
    ((fo.master_weights(fo.adam()), fo.clip_by_value(1.0)), "master_weights would not get the .* clip_by_value comes"),
    ((fo.keep_nonnegative(), fo.adam()), "the constraint of keep_nonnegative would not hold: adam comes after it"),
    ((fo.adam(), fo.project_box(0, 1), fo.scale(2.0)), "of project_box would not hold: scale comes after it"),
    ((fo.adam(), fo.project_box(0, 1), fo.scale_by_schedule(SCHEDULE)), "of project_box would not hold: scale comes"),
    ((fo.adam(), fo.project_box(0, 1), LAYERS), "of project_box would not hold: layerwise_decay comes after it"),
    ((fo.adam(), fo.project_box(0, 1), fo.add_noise(0, 1.0)), "project_box would not hold: add_noise comes"),
    ((fo.adam(), fo.keep_nonnegative(), fo.scale_by_param_norm()), "would not hold: scale_by_param_norm comes"),
]
RIGHT = [
    (ADAM,),  # part of another chain
    (ADAM, LAST),
    (ADAM, fo.scale(-0.1)),
    (ADAM, DECAY, LAST),
    (DECAY, ADAM, LAST),
    (fo.clip_by_global_norm(1.0), ADAM, DECAY, fo.scale_by_schedule(SCHEDULE), fo.scale(-1.0)),  # optax's adamw
    (ADAM, fo.scale_by_schedule(lambda step: -0.1)),
    (ADAM, fo.clip_by_global_norm(1.0), LAST),
    (fo.clip_by_value(1.0), MOMENTUM, LAST),
    (DECAY, MOMENTUM, LAST),
    (LAST, MOMENTUM),  # a buffer of updates instead of gradients
    (fo.adam(), MOMENTUM),
    (fo.scale(-0.1), MOMENTUM),
    (fo.scale_by_rms(), MOMENTUM, LAST),
    (MOMENTUM, fo.adam()),
    (ADAM, fo.sgd()),  # an algorithm whose update is a rate
    (ADAM, fo.sgd(momentum=0.9)),
    (ADAM, LAST, fo.scale(0.5)),
    (ADAM, LAST, fo.scale(-1.0), fo.scale(-0.5)),
    (ADAM, LAST, fo.scale_by_path([("bias", 0.5)])),
    (fo.scale_by_path([("bias", 0.0)]), ADAM, LAST),  # stops it
    (ADAM, LAST, fo.ema()),
    (ADAM, LAST, fo.ema(), fo.swa()),
    (fo.adam(), fo.keep_nonnegative(), fo.project_l2_ball(1.0), fo.identity(), fo.ema()),
    (fo.adam(), fo.lookahead(fo.identity()), fo.ema()),
    (fo.scale_by_sign(), LAST),
    (MOMENTUM, fo.scale_by_sign(), LAST),
    (fo.sgd(momentum=0.9), fo.scale_by_sign(), fo.scale(0.1)),
    (fo.normalize(), fo.sgd()),
    (LAYERS, fo.normalize(), fo.sgd()),  # a norm of all parameters keeps what differs between them
    (fo.scale_by_param_rms(), fo.clip_by_value(1.0), fo.normalize(), LAST),
    (fo.scale_by_path([("bias", 0.5)]), fo.normalize(), LAST),
    (fo.masked(fo.reduce_on_plateau(), KERNELS), fo.normalize(), LAST),
    (LAYERS, fo.masked(fo.normalize(), KERNELS), LAST),
    (LAYERS, fo.partition({True: fo.normalize(), False: fo.normalize()}, KERNELS), LAST),
    (fo.scale(0.5), ADAM, fo.scale(-1.0), fo.scale_by_sign()),
    (fo.scale(-1.0), ADAM, fo.scale(0.5), fo.scale_by_sign()),
    (fo.adam(), fo.add_decayed_weights(0.0)),
    (ADAM, LAST, fo.ema(), fo.add_decayed_weights(0.0)),
    (fo.skip_nonfinite(ADAM, 3), fo.add_decayed_weights(0.0), LAST),
    (fo.skip_nonfinite(ADAM, 0), fo.accumulate(fo.identity(), 1), DECAY, LAST),
    (fo.skip_nonfinite(fo.chain(ADAM, DECAY), 3), LAST),
    (fo.partition({True: ADAM, False: fo.set_to_zero()}, KERNELS), fo.add_decayed_weights(0.1, KERNELS), LAST),
    (fo.partition({True: fo.chain(ADAM, DECAY), False: fo.set_to_zero()}, KERNELS), LAST),
    (fo.masked(fo.set_to_zero(), KERNELS), ADAM, DECAY, LAST, fo.masked(fo.set_to_zero(), KERNELS)),
    (fo.freeze(fo.chain(fo.partition({True: fo.set_to_zero(), False: ADAM}, KERNELS), DECAY, LAST), KERNELS),),
    (fo.adam(), fo.keep_nonnegative(), fo.set_to_zero()),  # parameters that do not move still fulfil the constraint
    (fo.adam(), fo.keep_nonnegative(), fo.masked(fo.set_to_zero(), KERNELS)),
    (fo.adam(), fo.keep_nonnegative(), fo.scale(0.0), fo.scale_by_path([("bias", 0.0)])),
    (fo.accumulate(fo.identity(), 1), fo.adam()),  # lets everything through
    (fo.skip_nonfinite(fo.identity(), 0), fo.adam()),
    (fo.accumulate(fo.identity(), 4), fo.sgd()),  # which does nothing with a zero
    (fo.accumulate(fo.adam(), 4), fo.ema()),
    (fo.skip_nonfinite(ADAM, 2), LAST),
    (fo.accumulate(fo.identity(), 4), optax.identity(), fo.adam()),
    (DECAY, fo.scale_by_trust_ratio(), LAST, MOMENTUM),  # LARS
    (ADAM, DECAY, fo.scale_by_trust_ratio(), LAST),  # LAMB
    (fo.scale_by_muon(), fo.scale_by_param_rms(), LAST),
    (fo.adam(), fo.reduce_on_plateau()),
    (fo.reduce_on_plateau(), fo.sgd()),
    (fo.conjugate(), fo.sam(fo.sgd())),
    (fo.sam(fo.chain(fo.conjugate(), fo.adam())),),  # the parameters are real
    (fo.adam(), fo.ema(), fo.conjugate()),
    (fo.identity(), fo.sam(fo.chain(fo.clip_by_value(1.0), DECAY, fo.sgd()))),
    (optax.clip(1.0), fo.sam(fo.sgd())),
    (optax.clip(1.0), fo.lbfgs()),
    (fo.identity(), fo.lbfgs(), fo.scale(0.5), fo.ema()),
    (fo.conjugate(), fo.lbfgs()),
    (fo.clip_by_value(1.0), fo.lbfgs(max_iter=1)),  # which takes the gradient that it gets, and no other
    (DECAY, fo.bfgs(max_iter=2)),  # the second evaluation is the last
    (DECAY, fo.lbfgs(max_eval=2)),
    (ADAM, LAYERS, LAST),
    (ADAM, LAST, LAYERS),
    (fo.adamw(), LAYERS),
    (LAYERS, fo.sgd()),
    (LAYERS, MOMENTUM, LAST),
    (fo.scale(-1.0), ADAM, LAST),  # ascends
    (fo.scale(-1.0), DECAY, ADAM, LAST),  # ascends, and decays
    (fo.scale(-1.0), ADAM, fo.scale(0.1)),
    (fo.scale(-0.5), ADAM, fo.scale(0.1)),
    (fo.scale(-1 / 1024), ADAM, LAST),  # the gradient of a loss that was scaled, to ascend
    (fo.scale(-1 / 1024), fo.adam()),
    (fo.scale(-0.5), DECAY, ADAM, LAST),
    (fo.scale(0.5), ADAM, LAST),
    (fo.sgd(lr=1.0, momentum=0.9), fo.scale_by_muon(), fo.scale(0.1)),
    (LAST,),
    (fo.chain(fo.clip_by_value(1.0), ADAM), fo.chain(DECAY, LAST)),
    (fo.masked(ADAM, KERNELS), LAST),
    (fo.partition({True: fo.scale_by_muon(), False: ADAM}, KERNELS), DECAY, LAST),
    (fo.partition({True: fo.chain(ADAM, LAST), False: fo.sgd()}, KERNELS), fo.ema()),
    (fo.partition({True: LAST, False: fo.identity()}, KERNELS), fo.partition({True: MOMENTUM, False: ADAM}, KERNELS)),
    (fo.freeze(fo.chain(ADAM, LAST), KERNELS),),
    (fo.accumulate(fo.chain(ADAM, DECAY, LAST), 2), fo.scale(2.0)),
    (optax.scale_by_adam(), DECAY, LAST),
    (ADAM, optax.scale_by_learning_rate(0.1)),
    (ADAM, optax.scale(-0.1), LAYERS),
    (LAYERS, optax.add_decayed_weights(0.1), ADAM, LAST),
    (LAST, optax.scale(-1.0), ADAM),  # nothing is known about optax's
]


@pytest.mark.parametrize(("links", "message"), WRONG)
def test_wrong_orders_raise_when_the_chain_is_built(links, message):
    with pytest.raises(ValueError, match=message):
        fo.chain(*links)
    with pytest.raises(ValueError, match=message):
        fo.named_chain(*((str(index), link) for index, link in enumerate(links)))


@pytest.mark.parametrize("links", RIGHT)
def test_right_orders_do_not_raise(links):
    fo.chain(*links).init({name: leaf.reshape(1, -1) for name, leaf in PARAMS.items()})  # Muon takes matrices


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (fo.chain(fo.masked(LAST, KERNELS), ADAM), "scale_by_learning_rate is lost at the parameter 'kernel'"),
        (fo.chain(fo.masked(fo.adam(), KERNELS), LAST), "would ascend at the parameter 'kernel'"),
        (fo.chain(LAST, fo.partition({True: DECAY, False: fo.identity()}, KERNELS)), "grow at the parameter 'kernel'"),
        (fo.chain(fo.scale_by_path([("kernel", -1.0)]), fo.masked(LAST, KERNELS), DECAY), "grow at the parameter 'ker"),
        (fo.chain(fo.adam(), fo.scale_by_path([("bias", -0.5)])), "would ascend at the parameter 'bias'"),
        (
            fo.chain(fo.adam(), fo.masked(fo.scale(-1.0), KERNELS)),
            r"would ascend at the parameter 'kernel': .* to ascend there, put fo.masked\(fo.scale\(-1.0\), mask\) fir",
        ),
        (fo.chain(fo.masked(fo.accumulate(fo.identity(), 2), KERNELS), fo.adam()), "before adam .* 'kernel', which"),
        (fo.chain(fo.scale_by_path([("bias", 0.5)]), fo.adam()), "of scale_by_path are lost at the parameter 'bias'"),
        (fo.chain(fo.adam(), fo.ema(), fo.masked(fo.clip_by_value(1.0), KERNELS)), "get .* at the parameter 'kernel'"),
        (
            fo.chain(LAYERS, fo.partition({False: fo.scale_by_sign(), True: fo.normalize()}, KERNELS), LAST),
            "are lost at the parameter 'bias': scale_by_sign",
        ),
        (fo.chain(fo.masked(LAYERS, KERNELS), fo.scale_by_sign(), LAST), "decay are lost at the parameter 'kernel'"),
        (fo.chain(fo.masked(fo.set_to_zero(), KERNELS), fo.lbfgs()), "set_to_zero is lost at the parameter 'kernel'"),
        (
            fo.chain(fo.partition({True: ADAM, False: fo.set_to_zero()}, KERNELS), DECAY, LAST),
            "would decay at the parameter 'bias' although set_to_zero stops .* mask",
        ),
        (fo.chain(ADAM, fo.scale_by_path([("bias", 0.0)]), DECAY, LAST), "'bias' although scale_by_path stops them"),
        (fo.chain(fo.masked(fo.accumulate(ADAM, 2), KERNELS), DECAY, LAST), "at .* 'kernel' when accumulate lets"),
        (fo.sam(fo.lbfgs()), "sam is lost at the parameter 'bias'"),
    ],
)
def test_orders_that_are_wrong_for_some_parameters_raise_at_init(tx, message):
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (
            fo.sam(fo.chain(fo.conjugate(), fo.adam())),
            r"sam would look along the conjugate of the gradient at the parameter 'z': conjugate comes after it. "
            r"Put conjugate before it: fo.chain\(fo.conjugate\(\), fo.sam",
        ),
        (fo.chain(fo.sam(fo.sgd()), fo.conjugate()), "along the conjugate of the gradient at the parameter 'z'"),
        (fo.chain(fo.adam(), fo.ema(), fo.conjugate()), "get the parameters of the step at the parameter 'z'"),
        (fo.chain(fo.adam(), fo.project_l2_ball(1.0), fo.conjugate()), "would not hold at the parameter 'z'"),
    ],
)
def test_conjugate_in_a_wrong_place_raises_for_complex_parameters(tx, message):
    params = {"w": jnp.ones(2), "z": jnp.ones(2, jnp.complex64)}
    with pytest.raises(ValueError, match=message):
        tx.init(params)
    tx.init({"w": params["w"]})


@pytest.mark.parametrize(
    "links",
    [
        (ADAM,),
        (fo.chain(fo.clip_by_value(1.0), ADAM), fo.scale(0.1)),
        (ADAM, fo.scale_by_path([("bias", 0.5)])),
        (fo.partition({True: fo.scale_by_muon(), False: ADAM}, KERNELS),),
        (fo.freeze(fo.chain(ADAM, LAYERS), {"bias": True, "kernel": False}),),
        (fo.masked(ADAM, KERNELS),),
        (fo.scale_by_sign(),),
        (fo.clip_by_value(1.0), fo.normalize(), fo.scale(0.1)),
        (fo.masked(fo.scale_by_trust_ratio(), KERNELS),),
    ],
)
def test_an_optimizer_whose_direction_nobody_negates_is_refused(links):
    with pytest.raises(ValueError, match=r"would ascend.*: no link negates the direction of .*\. End the chain"):
        optim.Optimizer.from_transform(lambda: fo.chain(*links), PARAMS, {})

    class Own(optim.Optimizer):
        def transformation(self):
            return fo.chain(*links)

    with pytest.raises(ValueError, match="would ascend"):
        Own(PARAMS, {})


@pytest.mark.parametrize(
    "links",
    [
        (ADAM, LAST),
        (fo.scale(-1.0), ADAM, LAST),
        (fo.scale(-1.0), ADAM, fo.scale(0.1)),
        (ADAM, fo.scale_by_schedule(lambda step: -0.1)),
        (ADAM, optax.scale(-0.1)),
        (ADAM, fo.sgd()),
        (fo.partition({True: fo.chain(ADAM, LAST), False: fo.sgd()}, KERNELS),),
        (fo.selective(fo.chain(ADAM, LAST), KERNELS),),
        (optax.scale_by_adam(),),  # nothing is known about optax's
        (fo.scale(0.1),),  # an objective to maximize, or a test
    ],
)
def test_an_optimizer_that_descends_or_means_to_ascend_is_made(links, standard_promotion):
    optimizer = optim.Optimizer.from_transform(lambda: fo.chain(*links), PARAMS, {})
    optimizer.step(PARAMS)


@pytest.mark.parametrize("lr", [1e-3, fo.schedules.constant(1e-3)])
def test_a_rate_that_is_not_negated_is_refused_if_it_is_an_option(lr):
    with pytest.raises(ValueError, match="would ascend: no link negates the direction of"):
        optim.Optimizer.from_transform(lambda lr: fo.chain(ADAM, fo.scale(lr)), PARAMS, {"lr": lr})


def test_ascent_along_some_gradients_as_the_message_says():
    tx = fo.chain(fo.masked(fo.scale(-1.0), KERNELS), fo.adam(lr=0.1))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert jnp.all(updates["kernel"] > 0) and jnp.all(updates["bias"] < 0)


@pytest.mark.parametrize(
    "links", [(LAYERS, fo.normalize()), (fo.scale_by_param_rms(), fo.normalize()), (fo.normalize(), LAYERS)]
)
def test_factors_of_parameters_survive_a_norm_of_all(links):
    own = fo.chain(*links)
    factors, norm = (fo.chain(*[link for link in links if (link == fo.normalize()) is keep]) for keep in (False, True))
    with_factors, without = (tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0] for tx in (own, norm))
    alone, _ = factors.update(PARAMS, factors.init(PARAMS), PARAMS)

    def ratio(updates):
        return float(updates["bias"][0] / updates["kernel"][0, 0])

    wanted = ratio(without) * ratio(alone) / ratio(PARAMS)
    assert ratio(with_factors) == pytest.approx(wanted, rel=1e-5) and wanted != pytest.approx(ratio(without))


@pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs])
@pytest.mark.parametrize("options", [{"max_iter": 1}, {"max_iter": 2}, {"max_eval": 2}])
def test_a_link_before_a_quasi_newton_step_that_evaluates_no_gradient_has_its_whole_effect(make, options):
    def loss(params):
        return jnp.sum((params["bias"] - 3.0) ** 2) + jnp.sum(params["kernel"] ** 2)

    tx = fo.chain(fo.masked(fo.set_to_zero(), KERNELS), make(lr=0.1, **options))
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = fo.apply_updates(params, updates)
    assert jnp.array_equal(params["kernel"], PARAMS["kernel"]) and loss(params) < loss(PARAMS)


def test_a_constraint_holds_for_parameters_that_are_set_to_zero():
    tx = fo.chain(fo.sgd(lr=1.0), fo.keep_nonnegative(), fo.masked(fo.set_to_zero(), KERNELS))
    frozen = fo.freeze(fo.chain(fo.sgd(lr=1.0), fo.keep_nonnegative()), KERNELS)
    for each in (tx, frozen):
        updates, _ = each.update({"bias": 9 * PARAMS["bias"], "kernel": PARAMS["kernel"]}, each.init(PARAMS), PARAMS)
        moved = fo.apply_updates(PARAMS, updates)
        assert moved["bias"].tolist() == [0.0] * 3 and moved["kernel"].tolist() == PARAMS["kernel"].tolist()


def test_the_rate_of_an_optimizer_may_be_an_option():
    def make(lr, factor):
        return fo.chain(ADAM, fo.scale(factor), fo.scale_by_learning_rate(lr))

    optimizer = optim.Optimizer.from_transform(make, PARAMS, {"lr": 0.1, "factor": 0.5})
    optimizer.step(PARAMS)
    assert optimizer.params["bias"].tolist() == pytest.approx([0.95] * 3)
    assert all(bool(jnp.all(a < b)) for a, b in zip(*map(jax.tree.leaves, (optimizer.params, PARAMS)), strict=True))

"""Where a builder begins: one chain, one key, the datasets on offer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.builder.datasets import Dataset, DatasetList, Unreachable
from usufruct.builder.disputes import Dispute, check_disputable, read_dispute, send_dispute
from usufruct.builder.estimates import EvaluationResult, StatisticsResult
from usufruct.builder.peers import HolderPeer
from usufruct.builder.questions import ROUNDS, SPARE_ATTEMPTS, optimizer_of
from usufruct.builder.server_optimizer import ServerOptimizer
from usufruct.builder.settings import SGD, Encryption, EscrowTerms, Evaluation, Privacy, Question, Statistics
from usufruct.builder.sponsoring import JobToSponsor, sponsor
from usufruct.builder.store import home
from usufruct.chain import Chain, DatasetEntry, Sender
from usufruct.chain.keys import load_key
from usufruct.domain import ids
from usufruct.domain.dataset_card import card_hash, read_card
from usufruct.domain.grant import SignedSponsorship
from usufruct.errors import ConfigError, InvalidInput, PeerError, Refused, RoundFailed, UsufructError
from usufruct.wire.channel import PinnedEndpoint

if TYPE_CHECKING:
    from torch import nn

    from usufruct.builder.job import JobHandle
    from usufruct.builder.proposal import Proposal
    from usufruct.builder.quote import Quote

ROUND_TIMEOUT_SECONDS = 300
DELIVER_WITHIN_SECONDS = 7 * 86_400
GRANT_TIMEOUT_SECONDS = 600.0
SPONSORSHIP_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class Balance:
    """Money of the builder's key.

    Attributes:
        gas_wei: what pays for transactions.
        deposits: by token address, units deposited in ``ComputeAccess``: what jobs are paid from.
        wallet: by token address, units that are not deposited.
    """

    gas_wei: int
    deposits: Mapping[str, int]
    wallet: Mapping[str, int]


def connect(
    rpc_url: str | Sequence[str],
    *,
    contract: str,
    key: str | Path | None = None,
    passphrase_file: str | Path | None = None,
    timeout_seconds: float = 5.0,
    confirmations: int | None = None,
) -> Network:
    """Connects to a network of data holders.

    Args:
        rpc_url: JSON-RPC endpoint of the chain; or several, which must agree (a list, or text with spaces between).
        contract: address of ``ComputeAccess``; it names the other contracts.
        key: the builder's encrypted keystore file. Without one, datasets can be listed and nothing else.
        passphrase_file: file with the key's passphrase. Without it: the file named by ``USUFRUCT_PASSPHRASE_FILE``, or
            ``<key>.passphrase`` beside the key, or a prompt at a terminal.
        timeout_seconds: for one call to the chain.
        confirmations: for chains without finalized blocks: how many blocks below the newest count as final.
    Raises:
        ChainError: CHAIN_UNREACHABLE, WRONG_CHAIN or CHAIN_DISAGREES.
        ConfigError: KEY_INVALID.
    """
    urls = rpc_url if isinstance(rpc_url, str) else " ".join(rpc_url)
    chain = Chain.connect(urls, contract, timeout_seconds=timeout_seconds, confirmations=confirmations)
    if key is None:
        return Network(urls, chain, None, None, confirmations)
    path = Path(key).expanduser().resolve()
    account = load_key(path, passphrase_file=_passphrase_file(path, passphrase_file))
    return Network(urls, chain, account, path, confirmations)


def _passphrase_file(key: Path, given: str | Path | None) -> Path | None:
    if given is not None:
        return Path(given).expanduser()
    if os.environ.get("USUFRUCT_PASSPHRASE_FILE"):
        return Path(os.environ["USUFRUCT_PASSPHRASE_FILE"]).expanduser()
    beside = key.with_name(key.name + ".passphrase")
    return beside if beside.is_file() else None


class Network:
    """A chain with its data holders, seen with one builder's key. Make one with :func:`connect`."""

    def __init__(
        self,
        rpc_url: str,
        chain: Chain,
        account: LocalAccount | None,
        key_path: Path | None,
        confirmations: int | None = None,
    ) -> None:
        self.rpc_url, self.chain, self.key_path = rpc_url, chain, key_path
        self.confirmations = confirmations
        self._account = account

    @property
    def account(self) -> LocalAccount:
        """The builder's key. Raises :class:`ConfigError` where there is none."""
        if self._account is None:
            raise ConfigError(
                "This needs the builder's key: connect(…, key='builder.json').", reason="KEY_INVALID"
            )
        return self._account

    @property
    def address(self) -> str:
        """The builder's address."""
        return str(self.account.address)

    @contextmanager
    def sending(self) -> Iterator[Sender]:
        """Sends what belongs to no job, through the key's outbox in the builder's directory.

        Raises:
            ConfigError: LEDGER_LOCKED: another process is sending with this key just now.
        """
        directory = home() / "keys" / self.address.lower()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        sender = Sender(self.chain, self.account, directory / f"outbox-{self.chain.chain_id}.sqlite")
        try:
            yield sender
        finally:
            sender.close()

    def __repr__(self) -> str:
        who = self._account.address if self._account is not None else "no key"
        return f"<Network {self.rpc_url}, contract {self.chain.compute_access}, {who}>"

    # -- datasets and money -----------------------------------------------------------------------------------

    def datasets(self, task: str | None = None, ids: Sequence[int] | None = None) -> DatasetList:
        """The active datasets, with their cards fetched from their holders and compared with the chain.

        Args:
            task: only those whose card names this task.
            ids: only these numbers.
        Raises:
            PeerError: there are datasets on chain, but not one holder answers.
        """
        wanted = [
            entry
            for entry in self.chain.datasets()
            if entry.active and (ids is None or entry.dataset_id in ids)
        ]
        with ThreadPoolExecutor(min(16, max(1, len(wanted))), thread_name_prefix="cards") as pool:
            found = list(pool.map(self._dataset, wanted))
        unreachable = [entry for entry in found if isinstance(entry, Unreachable)]
        listed = [entry for entry in found if isinstance(entry, Dataset)]
        if unreachable and not listed:
            places = ", ".join(f"{gone.endpoint} ({gone.reason})" for gone in unreachable)
            raise PeerError(f"No data holder can be listed: {places}. Check that they are running.")
        return DatasetList((d for d in listed if task is None or d.task == task), unreachable)

    def balance(self) -> Balance:
        """Gas money, deposits and wallet of the builder's key, for every token that a dataset is priced in."""
        tokens = sorted({entry.token for entry in self.chain.datasets()})
        return Balance(
            gas_wei=self.chain.balance_wei(self.address),
            deposits={token: self.chain.deposit_of(token, self.address) for token in tokens},
            wallet={token: self.chain.token_balance(token, self.address) for token in tokens},
        )

    def deposit(self, units: int, token: str | None = None) -> int:
        """Moves money into the deposit that jobs are paid from; returns the gas used.

        Args:
            units: in the token's smallest unit.
            token: its address; None where all datasets are priced in one.
        """
        with self.sending() as sender:
            return int(sender.deposit(self._token(token), units).gas_used)

    def withdraw(self, units: int, token: str | None = None) -> int:
        """Moves money from the deposit back to the wallet; returns the gas used.

        Args:
            units, token: as for :meth:`deposit`.
        Raises:
            ChainError: MONEY_SHORT: less is deposited and not locked.
        """
        with self.sending() as sender:
            return int(sender.withdraw(self._token(token), units).gas_used)

    def _token(self, token: str | None) -> str:
        if token is not None:
            return token
        tokens = {entry.token for entry in self.chain.datasets()}
        if len(tokens) != 1:
            raise InvalidInput("Name the token; datasets are priced in several, or in none.", field="token")
        return tokens.pop()

    def sponsor(
        self,
        job: Proposal | JobToSponsor,
        units: int | None = None,
        *,
        valid_seconds: int = SPONSORSHIP_SECONDS,
    ) -> SignedSponsorship:
        """Promises, with this network's key, to pay for somebody else's job; deposits what is missing for that.

        The one whose job it is opens it with ``proposal.open(sponsorship=…)`` or ``train(…, sponsorship=payer.sponsor)``.

        Args:
            job: the other's :class:`Proposal`, or, from another machine, a :class:`JobToSponsor`.
            units: the most that may be locked; None for the job's price.
            valid_seconds: how long from now on the job may be opened with it.
        Raises:
            InvalidInput: the job's legs are priced in several tokens.
            Refused: MONEY_SHORT.
        """
        return sponsor(self, job if isinstance(job, JobToSponsor) else job.to_sponsor, units, valid_seconds)

    def dispute(self, job_id: str, dataset_id: int, reason: str) -> Dispute:
        """Disputes a delivered leg of a job that this network's key pays for; see ``JobHandle.dispute``.

        For a payer that is not the builder; keep the text of ``reason`` yourself, the arbiter will ask for it.
        """
        leg = self.chain.leg(ids.from_hex32(job_id, "job_id"), dataset_id, "latest")
        if leg is None:
            raise InvalidInput(f"Job {job_id} has no leg of dataset {dataset_id}.", reason="JOB_UNKNOWN")
        check_disputable(self.chain, leg, self.address)
        with self.sending() as sender:
            block = send_dispute(self.chain, sender, leg, reason).block_number
        self.chain.wait_final(block)
        disputed = self.chain.leg(leg.job_id, dataset_id, "latest")
        assert disputed is not None
        return read_dispute(self.chain, disputed, reason)

    # -- jobs -------------------------------------------------------------------------------------------------

    def quote(
        self,
        model: nn.Module | None,
        datasets: Sequence[Dataset],
        *,
        privacy: Privacy,
        rounds: int = 20,
        optimizer: SGD | None = None,
        loss: str | None = None,
        spare_attempts: int | None = None,
        min_cohort: int | None = None,
        encryption: Encryption | None = None,
        arbiter: str | None = None,
        sponsorship: object = None,
        question: Question | None = None,
        **_: Any,
    ) -> Quote:
        """What a job would cost, in money, privacy and gas at the chain's present price. Asks no holder, signs nothing.

        Takes the arguments of :meth:`train`, so that one may be turned into the other by its name; those that have no
        part in the cost are ignored. Without a model, bytes are left out. With a ``question``, what asking it would cost
        (:meth:`ask`); statistics need no model.
        """
        from usufruct.builder.quote import make_quote

        if question is not None:
            rounds, optimizer, spare_attempts = (
                ROUNDS,
                optimizer_of(question),
                spare_attempts or SPARE_ATTEMPTS,
            )
        return make_quote(
            self,
            model,
            datasets,
            privacy=privacy,
            rounds=rounds,
            optimizer=optimizer or SGD(lr=0.1),
            loss=loss,
            spare_attempts=spare_attempts,
            min_cohort=min_cohort,
            encryption=encryption,
            arbiter=arbiter,
            sponsored=sponsorship is not None,
            question=question,
        )

    def propose(
        self,
        model: nn.Module,
        datasets: Sequence[Dataset],
        *,
        aggregator: str,
        loss: str,
        optimizer: SGD,
        privacy: Privacy,
        rounds: int,
        base: str | Path | None = None,
        validation: Any = None,
        server_optimizer: ServerOptimizer | None = None,
        spare_attempts: int | None = None,
        min_cohort: int | None = None,
        encryption: Encryption | None = None,
        purpose: str | None = None,
        round_timeout_seconds: int = ROUND_TIMEOUT_SECONDS,
        deliver_within_seconds: int = DELIVER_WITHIN_SECONDS,
    ) -> Proposal:
        """Proposes a job to every holder and returns at once; some answer at once, a person may take days.

        Args:
            model: takes float32 [batch, features] and returns [batch, outputs]; its weights are where training starts.
            datasets: of :meth:`datasets`; all must have the same features and classes.
            aggregator: ``host:port#sha256:…``.
            loss: a name of ``builder.losses.LOSSES``.
            rounds: rounds that count.
            base: of a model with frozen parameters (:func:`usufruct.lora`): the base model that the holders have, by its digest
                ``sha256:…`` or by its file.
            validation: the builder's own ``(X, y)``, never sent anywhere.
            server_optimizer: what is done with the average of a round's updates: ``uf.ServerSGD``, ``uf.ServerAdam`` or
                ``uf.ServerYogi``; None applies it as it is. No holder hears of it.
            spare_attempts: see ``planning.make_plan``.
            min_cohort: least holders in a sum; None for what the datasets ask.
            encryption: bits of a value and of security; None for 16 and 128.
            purpose: a public sentence; its hash stands in every grant.
            round_timeout_seconds: how long one round may take.
            deliver_within_seconds: when the holders must have delivered, from now on; the price is locked until then.
        Raises:
            Refused: the job cannot be granted (budget, floor of epsilon, cohort); nobody has been asked.
            InvalidInput: a value is out of its range, or the model cannot be a graph.
            PeerError: the aggregator or a holder cannot be reached.
        """
        from usufruct.builder.proposing import new_proposal

        return new_proposal(
            self,
            model,
            datasets,
            aggregator=aggregator,
            loss=loss,
            optimizer=optimizer,
            privacy=privacy,
            rounds=rounds,
            base=base,
            validation=validation,
            server_optimizer=server_optimizer,
            spare_attempts=spare_attempts,
            min_cohort=min_cohort,
            encryption=encryption,
            purpose=purpose,
            round_timeout_seconds=round_timeout_seconds,
            deliver_within_seconds=deliver_within_seconds,
            escrow=EscrowTerms(),
        )

    def train(
        self,
        model: nn.Module | None,
        datasets: Sequence[Dataset],
        *,
        aggregator: str,
        loss: str,
        optimizer: SGD,
        privacy: Privacy,
        rounds: int,
        base: str | Path | None = None,
        validation: Any = None,
        server_optimizer: ServerOptimizer | None = None,
        spare_attempts: int | None = None,
        min_cohort: int | None = None,
        encryption: Encryption | None = None,
        purpose: str | None = None,
        round_timeout_seconds: int = ROUND_TIMEOUT_SECONDS,
        deliver_within_seconds: int = DELIVER_WITHIN_SECONDS,
        grant_timeout_seconds: float = GRANT_TIMEOUT_SECONDS,
        accept_within_seconds: int = EscrowTerms.accept_within_seconds,
        challenge_seconds: int = EscrowTerms.challenge_seconds,
        arbiter: str | None = None,
        sponsorship: Callable[[Proposal], SignedSponsorship] | None = None,
        question: Question | None = None,
    ) -> JobHandle:
        """Proposes a job, waits for every grant, opens it on chain and has it accepted. Iterate the result to run the rounds.

        Arguments and errors as :meth:`propose` and ``Proposal.open``; besides:

        Args:
            grant_timeout_seconds: how long to wait for holders that leave the decision to a person.
            sponsorship: whoever pays, where that is not this builder: asked once all holders have granted. :meth:`sponsor`
                of the payer's network will do.
            question: what is asked of rows in place of training; :meth:`ask` fills in what follows from it.
        Raises:
            Refused: a holder refused, MONEY_SHORT or TOO_FEW_ACCEPTED. After GRANT_PENDING the proposal stays:
                ``uf.resume`` with the id in the message opens it once it is granted.
        """
        escrow = EscrowTerms(accept_within_seconds, challenge_seconds, arbiter, sponsorship is not None)
        from usufruct.builder.job import add_hint, interrupted
        from usufruct.builder.proposing import new_proposal

        proposal = new_proposal(
            self,
            model,
            datasets,
            aggregator=aggregator,
            loss=loss,
            optimizer=optimizer,
            privacy=privacy,
            rounds=rounds,
            base=base,
            validation=validation,
            server_optimizer=server_optimizer,
            spare_attempts=spare_attempts,
            min_cohort=min_cohort,
            encryption=encryption,
            purpose=purpose,
            round_timeout_seconds=round_timeout_seconds,
            deliver_within_seconds=deliver_within_seconds,
            escrow=escrow,
            question=question,
        )
        try:
            proposal.wait(grant_timeout_seconds)
            return proposal.open(sponsorship=sponsorship(proposal) if sponsorship else None)
        except KeyboardInterrupt:
            raise interrupted(proposal.id, "before the first round") from None
        except UsufructError as error:
            refused = isinstance(error, Refused) and error.reason != "GRANT_PENDING"
            if not (refused and (proposal.ended or proposal.withdraw())):
                add_hint(error, proposal.id)
            raise

    def ask(
        self,
        question: Question,
        datasets: Sequence[Dataset],
        *,
        aggregator: str,
        privacy: Privacy,
        model: nn.Module | None = None,
        loss: str = "",
        spare_attempts: int = SPARE_ATTEMPTS,
        **options: Any,
    ) -> JobHandle:
        """Opens a job that asks something of rows in place of training on them: granted, charged, encrypted, logged and paid as
        any other, of one round. Run it (``job.run()``), and ``job.result`` has the figures.

        Args:
            question: ``uf.Evaluation`` or ``uf.Statistics``.
            privacy: as for training; ``max_grad_norm`` has no effect on the figures.
            model, loss: of an evaluation, as for training; for statistics none.
            spare_attempts: for what has to be drawn again; they cost noise whether or not they are used.
            options: others of :meth:`train`, such as ``base``, ``min_cohort``, ``purpose`` or ``sponsorship``.
        Raises:
            Refused, InvalidInput, PeerError: as :meth:`train`; POLICY_JOB_KIND: a holder does not accept such jobs.
        """
        return self.train(
            model,
            datasets,
            aggregator=aggregator,
            loss=loss,
            optimizer=optimizer_of(question),
            privacy=privacy,
            rounds=ROUNDS,
            spare_attempts=spare_attempts,
            question=question,
            **options,
        )

    def evaluate(
        self,
        model: nn.Module,
        datasets: Sequence[Dataset],
        *,
        loss: str,
        score_bins: int = Evaluation.score_bins,
        loss_bound: float = Evaluation.loss_bound,
        sample_rate: float = Evaluation.sample_rate,
        **options: Any,
    ) -> EvaluationResult:
        """How well a model does on all datasets' rows together, under differential privacy: :meth:`ask`, and its answer.

        Args:
            score_bins, loss_bound, sample_rate: see ``uf.Evaluation``.
            options: of :meth:`ask`; ``aggregator`` and ``privacy`` are needed.
        Raises:
            RoundFailed: the attempt was lost; its privacy loss is spent.
        """
        question = Evaluation(score_bins, loss_bound, sample_rate)
        result = _answer(self.ask(question, datasets, model=model, loss=loss, **options))
        assert not isinstance(result, StatisticsResult)
        return result

    def describe(
        self,
        datasets: Sequence[Dataset],
        *,
        columns: Sequence[str] | None = None,
        bins: int = Statistics.bins,
        sample_rate: float = Statistics.sample_rate,
        **options: Any,
    ) -> StatisticsResult:
        """Counts, means and histograms of columns over all datasets together, under differential privacy: :meth:`ask`, and
        its answer.

        Args:
            columns, bins, sample_rate: see ``uf.Statistics``.
            options: of :meth:`ask`; ``aggregator`` and ``privacy`` are needed.
        Raises:
            RoundFailed: the attempt was lost; its privacy loss is spent.
        """
        question = Statistics(None if columns is None else tuple(columns), bins, sample_rate)
        result = _answer(self.ask(question, datasets, **options))
        assert isinstance(result, StatisticsResult)
        return result

    def proposal(self, job_id: str) -> Proposal:
        """A proposal that was made on this machine before."""
        from usufruct.builder.proposal import Proposal
        from usufruct.builder.store import JobStore

        return Proposal(self, JobStore.find(job_id))

    # -- one dataset ------------------------------------------------------------------------------------------

    def _dataset(self, entry: DatasetEntry) -> Dataset | Unreachable:
        holder = self.chain.holder(entry.holder_id)
        try:
            peer = HolderPeer(entry.dataset_id, PinnedEndpoint(holder.endpoint, holder.fingerprint), None)
            try:
                card, policy = peer.card()
            finally:
                peer.close()
            if card_hash(card) != entry.card_hash:
                return Unreachable(entry.dataset_id, holder.endpoint, "CARD_MISMATCH")
            if keccak(policy) != entry.policy_hash:
                return Unreachable(entry.dataset_id, holder.endpoint, "POLICY_MISMATCH")
            return Dataset(
                id=entry.dataset_id,
                holder_id=entry.holder_id,
                card=read_card(card),
                card_hash=entry.card_hash,
                policy=policy,
                token=entry.token,
                price_units=entry.price_units,
                min_cohort=entry.min_cohort,
                order=entry.order,
                cap_micro=entry.cap_micro,
                reserved_micro=entry.reserved_micro,
                spent_micro=entry.spent_micro,
                max_loss_per_job_micro=entry.max_loss_per_job_micro,
                max_loss_per_grant_micro=entry.max_loss_per_grant_micro,
                operator=holder.operator,
                endpoint=holder.endpoint,
                fingerprint=holder.fingerprint,
            )
        except UsufructError as error:
            return Unreachable(entry.dataset_id, holder.endpoint, error.reason)


def _answer(job: JobHandle) -> EvaluationResult | StatisticsResult:
    """Runs a query's job to its end."""
    result = job.run().result
    if result is None:
        raise RoundFailed(
            f"Job {job.id} has no answer: {job.ended_early} Ask again, with spare_attempts=1 if this goes on.",
            reason="ATTEMPTS_EXHAUSTED",
            job_id=job.id,
        )
    return result

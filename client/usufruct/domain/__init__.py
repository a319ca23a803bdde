"""Pure nouns that all roles share: dataset card, training job, grant, leg receipt, usage record, ids."""

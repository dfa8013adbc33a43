"""Scripts for shell completion.

Each asks ``blockgate`` itself for the words that fit, in the way that Typer's completion speaks
with shells, so names of pools, volumes and exports are those of the running gateway.
"""

from __future__ import annotations

BASH = r"""# bash completion for blockgate; `source <(blockgate completion bash)`
_blockgate_completion() {
    local IFS=$'\n'
    # A name such as pool/vol:1 is one word here, whatever COMP_WORDBREAKS holds.
    mapfile -t COMPREPLY < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        _BLOCKGATE_COMPLETE=complete_bash "$1" 2>/dev/null)
    return 0
}
complete -o default -F _blockgate_completion blockgate
"""

ZSH = r"""#compdef blockgate
# zsh completion for blockgate; put it into a directory of $fpath as _blockgate
_blockgate() {
    eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" \
        _BLOCKGATE_COMPLETE=complete_zsh blockgate 2>/dev/null)"
}
if [ "$funcstack[1]" = "_blockgate" ]; then
    _blockgate "$@"
else
    compdef _blockgate blockgate
fi
"""

FISH = r"""# fish completion for blockgate; `blockgate completion fish | source`
function __blockgate_complete
    env _BLOCKGATE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) blockgate 2>/dev/null
end
complete --command blockgate --no-files --arguments "(__blockgate_complete get-args)" \
    --condition "__blockgate_complete is-args"
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

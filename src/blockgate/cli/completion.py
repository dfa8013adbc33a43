"""Scripts for shell completion.

Each asks ``blockgate`` itself for the words that fit, in the way that Typer's completion speaks
with shells, so names of pools, volumes and exports are those of the running gateway.
"""

from __future__ import annotations

BASH = r"""# bash completion for blockgate; `source <(blockgate completion bash)`
_blockgate_completion() {
    # A name such as iqn.2026-01.org.example:web is one word here, though bash takes it for three:
    # where it breaks words at colons it puts in what follows the last one.
    local line=${COMP_LINE:0:COMP_POINT} words word
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]}
    local IFS=$'\n'
    mapfile -t COMPREPLY < <(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        _BLOCKGATE_COMPLETE=complete_bash "$1" 2>/dev/null)
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
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
